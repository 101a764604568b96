//! A full disk: a small tmpfs in a mount namespace of its own; where the machine does not allow that, a
//! bound on the size of every file, which the kernel enforces as it enforces a full disk. The test says
//! which it was.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use serde_json::json;
use vectorkeep::model::record::Record;

use super::{BINARY, Process};
use crate::harness::{Answer, Collection, columns, eventually, numbered};

const FULL_AT_MIB: u64 = 32;
const ENOUGH_MIB: u64 = 512;
const BATCH: usize = 20;
const DOCUMENT_BYTES: usize = 40_000;

enum SmallDisk {
    /// A process that keeps the namespace, and how others enter it.
    Tmpfs {
        holder: Child,
        _alive: ChildStdin,
        enter: Vec<String>,
    },
    /// Bytes of the largest file, in MiB.
    FileSize(u64),
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Self::Tmpfs { holder, .. } = self {
            let _ = holder.kill();
            let _ = holder.wait();
        }
    }
}

impl SmallDisk {
    fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory).unwrap();
        let root: [&[&str]; 2] = [&["--mount"], &["--user", "--map-root-user", "--mount"]];
        let enter: [&[&str]; 2] = [
            &["--mount"],
            &["--user", "--preserve-credentials", "--mount"],
        ];
        for (namespaces, enter) in root.into_iter().zip(enter) {
            let mount =
                format!("mount -t tmpfs -o size={FULL_AT_MIB}m none \"$0\" && echo there && cat");
            let holder = Command::new("unshare")
                .args(namespaces)
                .args(["sh", "-c", &mount])
                .arg(directory)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let Ok(mut holder) = holder else { continue };
            let mut said = String::new();
            let mut stdout = BufReader::new(holder.stdout.take().unwrap());
            stdout.read_line(&mut said).unwrap();
            let alive = holder.stdin.take().unwrap();
            if said.trim() == "there" {
                let target = holder.id().to_string();
                let start = ["nsenter", "--target", &target];
                return Self::Tmpfs {
                    enter: start.iter().chain(enter).map(ToString::to_string).collect(),
                    holder,
                    _alive: alive,
                };
            }
            let _ = holder.wait();
        }
        Self::FileSize(FULL_AT_MIB)
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Tmpfs { .. } => "a small tmpfs",
            Self::FileSize(_) => "a bound on the size of files (no tmpfs allowed here)",
        }
    }

    fn enlarge(&mut self, directory: &Path) {
        match self {
            Self::Tmpfs { enter, .. } => {
                let size = format!("remount,size={ENOUGH_MIB}m");
                let status = Command::new(&enter[0])
                    .args(&enter[1..])
                    .args(["mount", "-o", &size])
                    .arg(directory)
                    .status()
                    .unwrap();
                assert!(status.success());
            }
            Self::FileSize(mebibytes) => *mebibytes = ENOUGH_MIB,
        }
    }

    /// The command line that runs the program on this disk.
    fn command(&self) -> Vec<String> {
        match self {
            Self::Tmpfs { enter, .. } => enter.iter().cloned().chain([BINARY.to_owned()]).collect(),
            Self::FileSize(mebibytes) => {
                let blocks = mebibytes * 2048;
                let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\"");
                ["sh", "-c", &script, BINARY].map(str::to_owned).to_vec()
            }
        }
    }

    async fn try_start(
        &self,
        home: &Path,
        kept_free: u64,
    ) -> Result<Process, (ExitStatus, String)> {
        Process::launch(home, &self.command(), |command| {
            command.env("VECTORKEEP__STORAGE__MIN_FREE_BYTES", kept_free.to_string());
            let warned = kept_free.max(1 << 30).to_string();
            command.env("VECTORKEEP__HEALTH__DISK_WARN_BYTES", warned);
        })
        .await
    }

    async fn start(&self, home: &Path, kept_free: u64) -> Process {
        match self.try_start(home, kept_free).await {
            Ok(process) => process,
            Err((status, message)) => panic!("ended with {status}: {message}"),
        }
    }
}

fn batch(number: usize) -> Vec<Record> {
    let mut records = numbered(&format!("b{number}-"), BATCH);
    for record in &mut records {
        // Nothing that a file system could compress.
        let text: String = (0..DOCUMENT_BYTES / 64)
            .map(|at| blake3::hash(format!("{}{at}", record.id).as_bytes()).to_string())
            .collect();
        record.document = Some(text);
    }
    records
}

/// Everything acknowledged has to be there, in order; of the refused batch all or nothing may be.
fn assert_whole(found: &[Record], acknowledged: &[Record], refused: &[Record]) {
    let whole: Vec<Record> = acknowledged.iter().chain(refused).cloned().collect();
    assert!(
        found == acknowledged || found == whole,
        "{} records are there, {} were acknowledged, {} refused",
        found.len(),
        acknowledged.len(),
        refused.len()
    );
}

/// Adds batches until one is refused: what was acknowledged, the refusal, and what it refused.
async fn fill(words: &Collection) -> (Vec<Record>, Answer, Vec<Record>) {
    let mut acknowledged = Vec::new();
    for number in 0..500 {
        let records = batch(number);
        let answer = words.post("add", columns(&records)).await;
        if answer.status != 201 {
            assert!(number > 3, "only {number} batches fit: this shows nothing");
            return (acknowledged, answer, records);
        }
        acknowledged.extend(records);
    }
    panic!("the disk never gets full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_a_clear_refusal_and_loses_nothing() {
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut disk = SmallDisk::new(&data);
    eprintln!("the full disk is {}", disk.kind());
    // No bound of our own: the store itself meets the full disk.
    let mut process = disk.start(home.path(), 0).await;
    let words = process.http.create("words").await;
    let (acknowledged, answer, refused) = fill(&words).await;
    assert!([500, 503].contains(&answer.status), "{}", answer.text());
    assert!(!answer.json()["message"].as_str().unwrap().is_empty());

    // Nothing wrong is served, everything else is refused with what to do, the health check says so.
    let again = words.post("add", columns(&batch(9_999))).await.ok(503);
    assert!(
        again["message"]
            .as_str()
            .unwrap()
            .contains("restart the service"),
        "{again}"
    );
    let read = words.post("get", json!({})).await;
    match read.status {
        200 => assert_whole(&words.records().await, &acknowledged, &refused),
        status => assert_eq!(status, 503, "{}", read.text()),
    }
    assert_eq!(process.http.get("/health").await.ok(503)["status"], "fail");
    process.terminate();
    process.ended().await;

    // On the same full disk it starts or says why not; with room it starts with everything.
    match disk.try_start(home.path(), 0).await {
        Ok(full) => {
            assert_whole(
                &words.at(&full.http).records().await,
                &acknowledged,
                &refused,
            );
        }
        Err((status, message)) => {
            assert_eq!(status.code(), Some(1), "{message}");
            assert!(message.contains(&data.display().to_string()), "{message}");
        }
    }
    disk.enlarge(&data);
    let process = disk.start(home.path(), 0).await;
    let words = words.at(&process.http);
    assert_whole(&words.records().await, &acknowledged, &refused);
    words.add(&batch(10_000)).await;
    let health = process
        .http
        .get("/health/collections?deep=true")
        .await
        .ok(200);
    assert_eq!(health["status"], "pass", "{health}");
    process.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_room_kept_free_reads_go_on_and_writes_come_back_without_a_restart() {
    const KEPT_FREE: u64 = 8 << 20;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut disk = SmallDisk::new(&data);
    if !matches!(disk, SmallDisk::Tmpfs { .. }) {
        eprintln!("no tmpfs allowed here: how much room is left cannot be set");
        return;
    }
    let process = disk.start(home.path(), KEPT_FREE).await;
    let words = process.http.create("words").await;
    let (acknowledged, answer, _) = fill(&words).await;
    let refusal = answer.ok(507);
    assert!(
        refusal["message"]
            .as_str()
            .unwrap()
            .contains("storage.min_free_bytes"),
        "{refusal}"
    );
    for refused in [
        words
            .post("delete", json!({"ids": [acknowledged[0].id]}))
            .await,
        process.http.post("/compactions", json!({})).await,
        process.http.post("/backups", json!({})).await,
    ] {
        assert_eq!(refused.status, 507, "{}", refused.text());
    }
    assert_eq!(words.records().await, acknowledged);
    let accepting = async || {
        let storage = process.http.get("/health/storage").await.json();
        storage["checks"]["storage:accepting_writes"][0].clone()
    };
    let refusing = accepting().await;
    assert_eq!(refusing["status"], "fail", "{refusing}");
    assert!(
        refusing["output"]
            .as_str()
            .unwrap()
            .contains("storage.min_free_bytes")
    );
    disk.enlarge(&data);
    assert_eq!(accepting().await["status"], "pass");
    words.add(&batch(10_000)).await;
    assert_eq!(words.count().await, (acknowledged.len() + BATCH) as u64);
    process.stop().await;
}

/// Seen before: the backup was gone and the answer was 507, and pruning freed nothing for ever.
#[tokio::test(flavor = "multi_thread")]
async fn deleting_and_pruning_free_room_where_none_is_left() {
    let home = tempfile::tempdir().unwrap();
    let repository = home.path().join("repository");
    let disk = SmallDisk::new(&repository);
    if !matches!(disk, SmallDisk::Tmpfs { .. }) {
        eprintln!("no tmpfs allowed here: the repository cannot be filled");
        return;
    }
    let mut line = disk.command();
    let launched = Process::launch(home.path(), &line, |command| {
        command.env("VECTORKEEP__REPOSITORY__GRACE_MS", "0");
    });
    let process = launched.await.unwrap();
    let words = process.http.create("words").await;
    let mut made = Vec::new();
    for number in 0..3 {
        words.add(&batch(number)).await;
        made.push(process.http.backup(json!({"kind": "full"})).await["id"].clone());
    }
    // To the last byte.
    line.truncate(line.len() - 1);
    let fill = "cat /dev/zero > filler 2> /dev/null; cat /dev/zero > filler-too 2> /dev/null; ! echo more > one-more 2> /dev/null";
    let filled = Command::new(&line[0])
        .args(&line[1..])
        .args(["sh", "-c", &format!("cd \"$0\" && {fill}")])
        .arg(&repository)
        .status()
        .unwrap();
    assert!(filled.success(), "the disk is not full");
    let more = process.http.post("/backups?wait=true", json!({})).await;
    assert_eq!(more.status, 507, "{}", more.text());

    let path = format!("/backups/{}", made[0].as_str().unwrap());
    let deleted = process.http.send("DELETE", &path, None).await.ok(200);
    assert!(deleted["freed_bytes"].as_u64().unwrap() > 0, "{deleted}");
    let pruned = process
        .http
        .post("/backups/prune?wait=true", json!({"keep_last": 1}))
        .await
        .ok(200);
    assert_eq!(pruned["result"]["deleted"], json!([made[1]]));
    assert!(
        pruned["result"]["freed_bytes"].as_u64().unwrap() > 0,
        "{pruned}"
    );
    // With room again, backups are made again.
    process.http.backup(json!({})).await;
    process.stop().await;
}

/// At the floor: storage fails, nothing asks for a restart, reads go on; with room again all is well by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_at_its_floor_is_reported_and_its_recovery_too() {
    const FLOOR: u64 = 8 << 20;
    let home = tempfile::tempdir().unwrap();
    let data = home.path().join("data");
    let mut disk = SmallDisk::new(&data);
    if !matches!(disk, SmallDisk::Tmpfs { .. }) {
        eprintln!("no tmpfs allowed here: how much room is left cannot be set");
        return;
    }
    let settings = [
        ("STORAGE__MIN_FREE_BYTES", FLOOR),
        ("HEALTH__DISK_FAIL_BYTES", FLOOR),
        ("HEALTH__DISK_WARN_BYTES", FLOOR),
        ("HEALTH__MONITOR_INTERVAL_MS", 50),
    ];
    let line = disk.command();
    let started = Process::launch(home.path(), &line, |command| {
        for (name, value) in settings {
            command.env(format!("VECTORKEEP__{name}"), value.to_string());
        }
    });
    let process = started
        .await
        .unwrap_or_else(|(_, message)| panic!("{message}"));
    let http = &process.http;
    assert_eq!(http.get("/health").await.ok(200)["status"], "pass");
    let words = http.create("words").await;
    let (acknowledged, answer, _) = fill(&words).await;
    answer.expect(507);

    let storage = http.get("/health/storage").await.ok(503);
    assert_eq!(storage["status"], "fail", "{storage}");
    let free = &storage["checks"]["storage:disk_free"][0];
    assert_eq!(free["status"], "fail", "{free}");
    assert!(free["observed_value"].as_u64().unwrap() < FLOOR, "{free}");
    eventually("the overview fails as well", async || {
        let overview = http.get("/health").await.ok(200);
        let free = &overview["checks"]["storage:disk_free"][0];
        (overview["status"] == "fail" && free["status"] == "fail").then_some(())
    })
    .await;
    http.get("/health/live").await.expect(200);
    http.get("/health/ready").await.expect(200);
    assert_eq!(words.records().await, acknowledged);
    assert_eq!(
        http.get("/health/collections").await.ok(200)["status"],
        "pass"
    );

    disk.enlarge(&data);
    eventually("all is well by itself", async || {
        let overview = http.get("/health").await.ok(200);
        (overview["status"] == "pass").then_some(())
    })
    .await;
    http.get("/health/storage").await.expect(200);
    words.add(&batch(10_000)).await;
    process.stop().await;
}

/// The demo's own services are refused room, and it says so and ends with 1. (The disk has less than
/// `storage.min_free_bytes` from the beginning.)
#[test]
fn the_demo_fails_on_a_full_disk_and_says_why() {
    let home = tempfile::tempdir().unwrap();
    let small = home.path().join("small");
    let disk = SmallDisk::new(&small);
    if !matches!(disk, SmallDisk::Tmpfs { .. }) {
        eprintln!("no tmpfs allowed here: how much room is left cannot be set");
        return;
    }
    let line = disk.command();
    let output = Command::new(&line[0])
        .args(&line[1..])
        .args(["demo", "--data-dir"])
        .arg(&small)
        .output()
        .unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{out}");
    let last = out.lines().last().unwrap();
    assert!(
        last.starts_with("[FAIL]") && last.contains("storage.min_free_bytes"),
        "{out}"
    );
}
