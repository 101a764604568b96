# Steps, and lanes of steps that run side by side. Sourced by .ci/run.
#
# A lane is a function that runs in a process group of its own, with its output in a file that is shown when it ends. The
# first lane that fails ends the others. Lanes wait for one another by milestones (`reached`, `await`).

declare -A lanes=()
milestones=$work/milestones
times=$work/times
mkdir -p "$work/lanes" "$milestones"
: >"$times"

fail() {
    printf 'FAIL: %s\n' "$*" >&2
    exit 1
}

# step NAME COMMAND...: a heading, the command, its duration. The command is called plainly, never inside a condition:
# there bash would ignore `set -e` in it.
step() {
    local name=$1 began=$SECONDS
    shift
    printf '%s\n' "$name" >"$work/lanes/${lane_name:-main}.step"
    printf '\n==== %s\n' "$name"
    "$@"
    printf -- '---- %s: %d s\n' "$name" $((SECONDS - began))
    printf '%d\t%d\t%s\t%s\n' "$began" $((SECONDS - began)) "${lane_name:-main}" "$name" >>"$times"
}

reached() {
    : >"$milestones/$1"
}

await() {
    until [ -e "$milestones/$1" ]; do sleep 0.2; done
}

# lane NAME FUNCTION: begins it.
lane() {
    local name=$1 function=$2
    # A process group of its own, so that all that it started can be ended with it.
    set -m
    (
        set +m
        set -euo pipefail
        trap - EXIT INT TERM
        lane_name=$name
        server_pid=
        server_log=$work/lanes/$name.service.log
        "$function"
    ) >"$work/lanes/$name.log" 2>&1 </dev/null &
    lanes[$!]=$name
    set +m
}

# Waits for all lanes; shows what each printed. Ends with the first that fails.
await_lanes() {
    local pid status name
    while [ "${#lanes[@]}" -gt 0 ]; do
        status=0
        wait -n -p pid "${!lanes[@]}" || status=$?
        name=${lanes[$pid]}
        unset "lanes[$pid]"
        printf '\n######## lane %s\n' "$name"
        cat "$work/lanes/$name.log"
        if [ "$status" != 0 ]; then
            failed_step="$name: $(cat "$work/lanes/$name.step" 2>/dev/null || printf 'begin')"
            if [ -s "$work/lanes/$name.service.log" ]; then
                printf 'The last lines of its service:\n'
                tail -n 60 "$work/lanes/$name.service.log"
            fi
            # What it started may go on without it.
            kill -TERM -- "-$pid" 2>/dev/null || true
            end_lanes
            exit "$status"
        fi
    done
}

end_lanes() {
    local pid tries
    for pid in "${!lanes[@]}"; do
        kill -TERM -- "-$pid" 2>/dev/null || true
    done
    for ((tries = 50; tries > 0; tries--)); do
        for pid in "${!lanes[@]}"; do
            kill -0 -- "-$pid" 2>/dev/null || unset "lanes[$pid]"
        done
        [ "${#lanes[@]}" -gt 0 ] || return 0
        sleep 0.1
    done
    for pid in "${!lanes[@]}"; do
        kill -KILL -- "-$pid" 2>/dev/null || true
    done
}

# Every step that ended, in the order of their begins: when, how long, in which lane.
print_times() {
    printf '\n%7s %7s  %-10s %s\n' 'begin s' 'took s' 'lane' 'step'
    sort -n "$times" | while IFS=$'\t' read -r began took lane step; do
        printf '%7d %7d  %-10s %s\n' "$began" "$took" "$lane" "$step"
    done
}
