"""Checks the Avro schemas with an implementation that is not ours: each parses, and each says what its fields mean."""

import json
import pathlib
import sys

import fastavro


def undocumented(schema, path):
    """Yields the path of every record, enum and field without a doc string."""
    if isinstance(schema, list):
        for branch in schema:
            yield from undocumented(branch, path)
    elif isinstance(schema, dict):
        kind = schema["type"]
        if kind in ("record", "enum"):
            path = f"{path}/{schema['name']}"
            if not schema.get("doc"):
                yield path
        for field in schema.get("fields", []):
            if not field.get("doc"):
                yield f"{path}.{field['name']}"
            yield from undocumented(field["type"], f"{path}.{field['name']}")
        for inner in ("items", "values"):
            if inner in schema:
                yield from undocumented(schema[inner], path)
        if isinstance(kind, (dict, list)):
            yield from undocumented(kind, path)


def main(directory):
    files = sorted(pathlib.Path(directory).glob("**/*.avsc"))
    findings = [] if files else [f"{directory}: no schemas"]
    for file in files:
        try:
            schema = json.loads(file.read_text(encoding="utf-8"))
            fastavro.parse_schema(schema)
        except (ValueError, KeyError, fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
            findings.append(f"{file}: {error!r}")
            continue
        findings += [f"{file}: no doc on {path}" for path in undocumented(schema, "")]
    print("\n".join(findings) if findings else f"{len(files)} schemas")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
