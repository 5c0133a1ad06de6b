"""Reads Avro single-object records with fastavro and writes them again.

Arguments: the directory of the schemas. Each line of the input is {"schema": name, "record": base64};
the answer is {"seen": what was decoded, "record": base64 of fastavro's own bytes}.
"""

import base64
import io
import json
import pathlib
import sys

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

MARKER = b"\xc3\x01"


def plain(value):
    """JSON has no bytes."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value


def load(path):
    text = json.loads(path.read_text(encoding="utf-8"))
    head = MARKER + bytes.fromhex(fingerprint(to_parsing_canonical_form(text), "CRC-64-AVRO"))
    return fastavro.parse_schema(text), head


schemas = {path.stem: load(path) for path in pathlib.Path(sys.argv[1]).glob("*.avsc")}
for line in sys.stdin:
    request = json.loads(line)
    schema, head = schemas[request["schema"]]
    record = base64.b64decode(request["record"])
    assert record[:10] == head, f"header {record[:10].hex()} instead of {head.hex()}"
    body = io.BytesIO(record[10:])
    seen = fastavro.schemaless_reader(body, schema, None)
    assert body.read() == b"", "bytes follow the record"
    written = io.BytesIO()
    fastavro.schemaless_writer(written, schema, seen, strict=True)
    answer = {"seen": plain(seen), "record": base64.b64encode(head + written.getvalue()).decode()}
    print(json.dumps(answer), flush=True)
