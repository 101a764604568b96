#!/usr/bin/env python3
"""chroma_own_tests.py HOST PORT [--examples N] [--steps N] [--seed N] [-k WORDS]

Runs the tests that the `chromadb` wheel carries (chromadb/test) against a running server, with the wheel's own
synchronous and asynchronous clients. It ERASES everything in that server, which must allow resets.

Needs chromadb 1.5.9, `pytest<9`, `hypothesis` and `psutil`; installs nothing. Two things are replaced: the
embedding model that the client would download, by a hash of the text, and the import of Chroma's Python server,
which is not what is tested. Every test runs that EXCLUDED does not name.

Exit status 0 only if every selected test passed, none skipped itself, every name in EXCLUDED and UNSKIPPED
exists, and at least FLOOR tests ran. Chroma's own server (1.5.9) passes too, but for
forks, which it does not have.
"""

import argparse
import faulthandler
import hashlib
import os
import random
import sys
import tempfile
import types
import urllib.request
from collections import Counter
from pathlib import Path

import chromadb
import hypothesis
import numpy as np
import pytest
from chromadb.utils.embedding_functions.onnx_mini_lm_l6_v2 import ONNXMiniLM_L6_V2

VERSION = "1.5.9"
FLOOR = 440
# A test that takes longer hangs: with many examples on a busy machine the longest took some 100 s.
TEST_SECONDS = 900
TESTS = Path(chromadb.__file__).parent / "test"

# What is not run, by reason: folders, files, classes, tests, variants of a test, below chromadb/test.
EXCLUDED = {
    "tests the client or its embedding functions and asks no server": """
        api/test_schema.py api/test_schema_e2e.py::test_embeds_using_schema_embedding_function
        api/test_schema_e2e.py::test_schema_rejects_invalid_source_key_in_configs
        api/test_schema_e2e.py::test_schema_rejects_special_key_in_create_index
        api/test_schema_e2e.py::test_schema_rejects_special_key_in_delete_index api/test_shared_system_client.py
        api/test_types.py auth/test_auth_utils.py client/test_cloud_client.py client/test_create_http_client.py
        configurations/test_collection_configuration.py::test_invalid_configuration
        configurations/test_collection_configuration.py::test_overwrite_spann_configuration
        configurations/test_configurations.py ef/test_chroma_bm25_embedding_function.py ef/test_custom_ef.py
        ef/test_default_ef.py ef/test_ef.py ef/test_morph_ef.py ef/test_ollama_ef.py ef/test_onnx_mini_lm_l6_v2.py
        ef/test_openai_ef.py ef/test_voyageai_ef.py property/test_base64_conversion.py property/test_client_url.py
        property/test_embeddings.py::test_0dim_embedding_validation
        property/test_embeddings.py::test_autocasting_validate_embeddings_for_compatible_types
        property/test_embeddings.py::test_autocasting_validate_embeddings_incompatible_types
        property/test_embeddings.py::test_autocasting_validate_embeddings_with_ndarray
        test_api.py::TestLimitFromDict test_api.py::TestRankFromDict test_api.py::TestRoundTripConversion
        test_api.py::TestSearchDictSupport test_api.py::TestSelectFromDict test_api.py::TestWhereFromDict
        test_api.py::test_default_embedding test_api.py::test_group_by_serialization
        test_api.py::test_list_metadata_validation test_api.py::test_rrf_to_dict test_api.py::test_search_result_rows
        test_api.py::test_sparse_vector_dict_format_in_record_set
        test_api.py::test_sparse_vector_dict_format_normalization
        test_api.py::test_sparse_vector_in_metadata_validation test_api.py::test_validate_sparse_vector
        test_api.py::test_where_contains_validation test_client.py test_config.py utils
    """,
    "looks into Chroma's own engine in this process, or starts Chroma's server": """
        api/test_delete_database.py::test_collection_was_removed auth/test_rbac_authz.py
        client/test_database_tenant_auth.py db property/test_collections_with_database_tenant_overwrite.py
        property/test_cross_version_persist.py property/test_persist.py property/test_restart_persist.py
        test_api.py::test_persist test_api.py::test_persist_index_get_or_create_embedding_function
        test_api.py::test_persist_index_loading test_api.py::test_persist_index_loading_embedding_function
        test_api.py::test_persist_index_loading_params test_api.py::test_ssl_self_signed
        test_api.py::test_ssl_self_signed_without_ssl_verify test_chroma.py test_cli.py
    """,
    "needs Chroma's distributed deployment: compaction, functions, several regions": """
        api/test_indexing_status.py api/test_schema_e2e.py::test_collection_fork_inherits_and_isolates_schema
        distributed property/test_add_gc.py property/test_add_mcmr.py segment
    """,
    "needs search(), which one node answers with 501": """
        api/test_search_api.py property/test_add.py::test_search_group_by
        property/test_embeddings.py::test_embeddings_state_with_search
        property/test_filtering.py::test_filterable_metadata_query_via_search
        property/test_filtering.py::test_filterable_metadata_search
    """,
    "needs SPANN or sparse vectors, which one node refuses": """
        api/test_schema_e2e.py::test_dense_and_sparse_auto_embeddings_together
        api/test_schema_e2e.py::test_modify_collection_no_initial_config_creates_default_schema
        api/test_schema_e2e.py::test_modify_collection_preserves_other_schema_fields
        api/test_schema_e2e.py::test_modify_collection_updates_schema_spann_multiple_fields
        api/test_schema_e2e.py::test_modify_collection_with_initial_spann_schema
        api/test_schema_e2e.py::test_schema_embedding_configuration_enforced
        api/test_schema_e2e.py::test_search_api_uses_embedded_searches_with_sparse_embeddings
        api/test_schema_e2e.py::test_search_embeds_string_knn_queries_with_sparse_embedding_function
        api/test_schema_e2e.py::test_sparse_auto_embedding_persistence_across_client_reload
        api/test_schema_e2e.py::test_sparse_auto_embedding_skips_existing_values
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_batch_operations
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_document_source_and_metadata
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_document_source_no_metadata
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_empty_documents
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_metadata_source_key
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_missing_source_field
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_mixed_metadata_none_and_filled
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_string_inverted_index
        api/test_schema_e2e.py::test_sparse_auto_embedding_with_update_and_upsert
        api/test_schema_e2e.py::test_sparse_vector_index_config_with_key_types
        api/test_schema_e2e.py::test_sparse_vector_source_key_and_index_constraints
        api/test_schema_e2e.py::test_vector_index_config_with_key_document_source
        configurations/test_collection_configuration.py::test_configuration_spann_updates
        configurations/test_collection_configuration.py::test_exclusive_update_hnsw_spann_configuration
        configurations/test_collection_configuration.py::test_spann_configuration_persistence
        configurations/test_collection_configuration.py::test_spann_update_from_json
    """,
    "skips itself with every client but one that no fixture makes": """
        test_api.py::test_pre_flight_checks test_api.py::test_supports_base64_encoding
        test_api.py::test_supports_base64_encoding_legacy
    """,
    "skips itself with the asynchronous client": """
        property/test_add.py::test_add_medium[async_integration-classic]
        property/test_add.py::test_add_miniscule[async_integration-classic]
        property/test_add.py::test_add_small[async_integration-classic]
        property/test_add.py::test_out_of_order_ids[async_integration-classic]
        property/test_filtering.py::test_query_ids_filter_property[async_integration-classic]
    """,
    "makes 7,500 collections where the server is in this process, and does nothing elsewhere": "stress",
}

# Marked to be skipped on one node, for want of SPANN or forks. They do not need the one; the other is here.
UNSKIPPED = [
    "api/test_count_api.py",
    "api/test_fork_count_api.py",
    "api/test_schema_e2e.py::test_create_index_with_key_type",
    "api/test_schema_e2e.py::test_delete_index_with_key_type",
    "api/test_schema_e2e.py::test_disabled_metadata_index_filters_raise_invalid_argument",
    "api/test_schema_e2e.py::test_fts_disabled_search_api_blocks_document_filter",
    "api/test_schema_e2e.py::test_search_embeds_string_knn_queries",
    "api/test_schema_e2e.py::test_search_embeds_string_queries_in_nested_ranks",
    "api/test_schema_e2e.py::test_server_validates_invalid_source_key_in_sparse_vector_config",
    "api/test_schema_e2e.py::test_server_validates_schema_with_special_keys",
    "property/test_fork.py",
]


class Selection:
    """The pytest plugin that leaves out what is excluded, resets the server and counts."""

    def __init__(self, address, seed):
        self.reset = urllib.request.Request(f"http://{address}/api/v2/reset", method="POST")
        self.seed = seed
        self.excluded = [name for names in EXCLUDED.values() for name in names.split()]
        self.unused = {*self.excluded, *UNSKIPPED}
        self.outcomes = Counter()
        # pytest puts its own file there while tests run.
        self.trace = os.fdopen(os.dup(2), "w")

    def covers(self, names, node):
        """Whether one of the names is this file or test, or what contains it."""
        found = {name for name in names if node == name or node.startswith(name) and node[len(name)] in "/:["}
        self.unused -= found
        return bool(found)

    def pytest_ignore_collect(self, collection_path):
        return True if self.covers(self.excluded, collection_path.relative_to(TESTS).as_posix()) else None

    def pytest_collection_modifyitems(self, items):
        self.outcomes["excluded"] = len(items)
        items[:] = [item for item in items if not self.covers(self.excluded, item.nodeid)]
        self.outcomes["excluded"] -= len(items)
        for item in items:
            if self.covers(UNSKIPPED, item.nodeid):
                item.own_markers = [marker for marker in item.own_markers if marker.name != "skipif"]

    def pytest_runtest_setup(self):
        # A server that hangs ends the run, with a trace of where.
        faulthandler.dump_traceback_later(TEST_SECONDS, exit=True, file=self.trace)
        urllib.request.urlopen(self.reset, timeout=60).close()
        random.seed(self.seed)
        np.random.seed(self.seed)

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            expected = report.skipped and hasattr(report, "wasxfail")
            self.outcomes["failed as expected" if expected else report.outcome] += 1


def hashed(_, texts):
    """Stands in for the model: unit vectors of its dimension, equal for equal texts."""
    digests = [hashlib.sha256(text.encode()).digest() for text in texts]
    vectors = [np.random.default_rng(list(digest)).standard_normal(384) for digest in digests]
    return [(vector / np.linalg.norm(vector)).astype(np.float32) for vector in vectors]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--examples", type=int, default=6, help="examples of each property")
    parser.add_argument("--steps", type=int, default=25, help="steps of each example of a state machine")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is drawn")
    parser.add_argument("-k", default="", help="only what pytest's -k selects; the floor then does not count")
    arguments = parser.parse_args()
    if chromadb.__version__ != VERSION:
        sys.exit(f"the exclusions are for chromadb {VERSION}, this is {chromadb.__version__}")

    place = tempfile.TemporaryDirectory()
    os.chdir(place.name)
    os.environ |= {
        "CHROMA_INTEGRATION_TEST_ONLY": "1",
        "CHROMA_API_IMPL": "chromadb.api.fastapi.FastAPI",
        "CHROMA_SERVER_HOST": arguments.host,
        "CHROMA_SERVER_HTTP_PORT": str(arguments.port),
        "HYPOTHESIS_STORAGE_DIRECTORY": place.name,
    }
    sys.modules["chromadb.server.fastapi"] = types.ModuleType("chromadb.server.fastapi")
    ONNXMiniLM_L6_V2.__call__ = hashed
    hypothesis.settings.register_profile(
        "bounded",
        max_examples=arguments.examples,
        stateful_step_count=arguments.steps,
        deadline=None,
        database=None,
        print_blob=True,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    selection = Selection(f"{arguments.host}:{arguments.port}", arguments.seed)
    try:
        selection.pytest_runtest_setup()
    except OSError as error:
        sys.exit(f"cannot reset the server: {error}")
    status = pytest.main(
        [
            str(TESTS),
            f"--rootdir={TESTS}",
            "--import-mode=importlib",
            "--hypothesis-profile=bounded",
            f"--hypothesis-seed={arguments.seed}",
            *("-p", "no:cacheprovider", "-p", "no:asyncio", "-p", "no:faulthandler", "-k", arguments.k),
            *("-q", "--no-header", "--disable-warnings", "--tb=short", "-rfEs", "--durations=5"),
        ],
        plugins=[selection],
    )
    outcomes = selection.outcomes
    ran = outcomes["passed"] + outcomes["failed"] + outcomes["failed as expected"]
    problems = []
    if status:
        problems.append(f"pytest ended with status {int(status)}")
    if outcomes["skipped"]:
        problems.append(f"{outcomes['skipped']} tests skipped themselves and are not in EXCLUDED")
    if selection.unused:
        problems.append(f"EXCLUDED or UNSKIPPED name what does not exist: {', '.join(sorted(selection.unused))}")
    if ran < FLOOR and not arguments.k:
        problems.append(f"{ran} tests ran, fewer than {FLOOR}")
    for problem in problems:
        print(f"FAIL: {problem}")
    print(f"{ran} ran: {', '.join(f'{count} {outcome}' for outcome, count in outcomes.items())}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
