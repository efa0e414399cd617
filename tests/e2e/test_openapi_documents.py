"""The five OpenAPI documents: what a client generator and a reader need of them."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from jsonschema import Draft202012Validator

from shared.events.topics import SERVICES
from tests.support.platform import json_of, running_platform

pytestmark = pytest.mark.asyncio(loop_scope="module")

Json = dict[str, Any]
_REFUSALS = {"400", "401", "403", "404", "409", "413", "415", "422", "503"}
_PROBLEM = {"$ref": "#/components/schemas/Problem"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def documents(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Json]]:
    async with running_platform(tmp_path_factory.mktemp("documents") / "data") as running:
        client = await running.anonymous()
        yield {
            service: json_of(await client.get(f"/{service}/openapi.json")) for service in SERVICES
        }


def operations(document: Json) -> Iterator[tuple[str, Json]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def versioned(document: Json) -> Iterator[tuple[str, Json]]:
    yield from ((label, one) for label, one in operations(document) if "/v1/" in label)


def nodes(node: Any) -> Iterator[Json]:
    if isinstance(node, dict):
        yield node
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, dict | list):
            yield from nodes(child)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_document_is_openapi_3_1_with_a_title_and_a_bearer_scheme(
    documents: dict[str, Json], service: str
) -> None:
    document = documents[service]
    assert document["openapi"].startswith("3.1.")
    assert document["info"]["title"] == f"Upward {service}"
    assert document["info"]["description"]
    (name, scheme), *more = document["components"]["securitySchemes"].items()
    assert (scheme["type"], scheme["scheme"], more) == ("http", "bearer", [])
    for label, operation in versioned(document):
        assert operation["security"] == [{name: []}], label


@pytest.mark.parametrize("service", SERVICES)
async def test_operations_have_names_of_their_own_and_say_what_they_do(
    documents: dict[str, Json], service: str
) -> None:
    found = dict(operations(documents[service]))
    names = [operation["operationId"] for operation in found.values()]
    assert len(set(names)) == len(names) > 5
    for label, operation in found.items():
        assert operation["summary"], label
        assert operation["description"].rstrip().endswith("."), label
        assert operation["tags"], label


@pytest.mark.parametrize("service", SERVICES)
async def test_every_refusal_is_documented_as_a_problem_document(
    documents: dict[str, Json], service: str
) -> None:
    for label, operation in versioned(documents[service]):
        answers = operation["responses"]
        good = {code for code in answers if code < "300"}
        assert len(good) == 1, label
        for code in good:
            assert "schema" in answers[code]["content"]["application/json"], label
        assert answers.keys() - good == _REFUSALS, label
        for code in answers.keys() - good:
            assert answers[code]["description"], label
            # FastAPI's own 422 would stand beside it, with another media type and another form.
            assert answers[code]["content"] == {"application/problem+json": {"schema": _PROBLEM}}, (
                label
            )


@pytest.mark.parametrize("service", SERVICES)
async def test_every_schema_is_valid_and_every_reference_leads_somewhere(
    documents: dict[str, Json], service: str
) -> None:
    document = documents[service]
    schemas = document["components"]["schemas"]
    assert {"Problem", "FieldProblem"} <= schemas.keys()
    assert not {"HTTPValidationError", "ValidationError"} & schemas.keys()
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    used = {node["$ref"] for node in nodes(document) if isinstance(node.get("$ref"), str)}
    assert used == {f"#/components/schemas/{name}" for name in schemas}


@pytest.mark.parametrize("service", SERVICES)
async def test_what_is_sent_has_no_unknown_fields_and_no_endless_texts(
    documents: dict[str, Json], service: str
) -> None:
    document = documents[service]
    schemas = document["components"]["schemas"]
    for label, operation in versioned(document):
        content = operation.get("requestBody", {}).get("content", {})
        if "application/json" not in content:
            continue
        pending, seen = [content["application/json"]["schema"]], list[str]()
        while pending:
            for node in nodes(pending.pop()):
                name = str(node.get("$ref", "")).rpartition("/")[2]
                if name and name not in seen:
                    seen.append(name)
                    pending.append(schemas[name])
                if "properties" in node:
                    assert node["additionalProperties"] is False, (label, node)
                if node.get("type") == "string":
                    bounded = {"maxLength", "pattern", "format", "enum", "const"} & node.keys()
                    assert bounded, (label, node)
                if node.get("type") == "array":
                    assert "maxItems" in node, (label, node)
