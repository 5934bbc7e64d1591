"Our files in the `datasets` library, whose JSON reader takes the types of a whole file from its first ten megabytes."
import json
import pytest
from agentark.core.store import to_parquet

datasets = pytest.importorskip("datasets")

@pytest.fixture
def path(tmp_path):
    "Records of which only the last one has failed."
    path = tmp_path/"records.jsonl"
    with open(path, "w") as f:
        for i in range(3600):
            error = "timed out" if i == 3599 else None
            f.write(json.dumps({"query": "q"*3000, "error": error}) + "\n")
    assert path.stat().st_size > 10 << 20
    return path

def last_error(kind: str, path, **options):
    "What `load_dataset` reads in the last record."
    cache = str(path.parent/"cache")
    return datasets.load_dataset(kind, data_files=str(path), split="train", cache_dir=cache, **options)[-1]["error"]

def test_a_field_that_is_null_at_first_is_read_from_parquet(path):
    assert last_error("parquet", to_parquet(path)) == "timed out"

def test_a_field_that_is_null_at_first_is_read_from_json_in_one_piece(path):
    assert last_error("json", path, chunksize=1 << 30) == "timed out"

def test_in_pieces_it_is_not(path):
    "So the tests above can fail; where this one does, the advice to read in one piece is no longer needed."
    with pytest.raises(datasets.exceptions.DatasetGenerationError): last_error("json", path)
