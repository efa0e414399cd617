"""The rights on Kafka that we say services need are those that they use."""

from pathlib import Path

from typer.testing import CliRunner

from deploy.cli import app
from deploy.cluster.rights import rights
from shared.events.topics import SERVICES
from tests.support.platform import running_platform


async def test_a_service_may_read_what_it_consumes_and_its_own_group(tmp_path: Path) -> None:
    async with running_platform(tmp_path, SERVICES) as platform:
        for service in platform.platform.services:
            reads = {
                (r.resource, r.name)
                for r in rights()
                if (r.service, r.operation) == (service.name, "Read")
            }
            consumed = {("topic", topic) for topic in service.consumer.topics}
            assert reads == consumed | ({("group", service.consumer.group)} if consumed else set())


def test_rights_are_printed_as_options_for_the_users_that_a_company_has() -> None:
    said = CliRunner().invoke(app, ["topics", "rights", "--user", "hr.{service}"]).stdout
    lines = said.splitlines()
    assert len(lines) == len(list(rights()))
    assert "--allow-principal User:hr.matching --operation Read --group upward.matching" in lines
    assert (
        "--allow-principal User:hr.enrollment --operation Write --topic upward.programs.v1" in lines
    )
