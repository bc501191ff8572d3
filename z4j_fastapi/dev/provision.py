"""What an agent needs from a brain before it can connect: a project and a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from z4j_fastapi.dev.rest import BrainRest


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCredentials:
    """What the brain hands out, once, for a new agent.

    Attributes:
        brain_url: Address of the brain.
        project_slug: The project's short name, which `Z4J_PROJECT_ID` takes.
        agent_id: The brain's id of the agent (a UUID).
        name: Label of the agent.
        token: The agent's own bearer token; a secret.
        hmac_secret: Signing key of the whole project; a secret.
    """

    brain_url: str
    project_slug: str
    agent_id: str
    name: str
    token: str = field(repr=False)
    hmac_secret: str = field(repr=False)

    def environ(self, *, state_dir: Path | None = None) -> dict[str, str]:
        """The environment variables that let a process be this agent.

        Args:
            state_dir: The process's state directory; None leaves `Z4J_HOME` out.
        """
        variables = {
            "Z4J_BRAIN_URL": self.brain_url,
            "Z4J_TOKEN": self.token,
            "Z4J_HMAC_SECRET": self.hmac_secret,
            "Z4J_PROJECT_ID": self.project_slug,
            "Z4J_AGENT_NAME": self.name,
        }
        if state_dir is not None:
            variables["Z4J_HOME"] = str(state_dir)
        return variables


def provision_project(rest: BrainRest, *, slug: str, name: str | None = None) -> str:
    """Create a project.

    Args:
        rest: A signed-in administrator.
        slug: 3 to 50 characters: lower-case letters, digits, and hyphens inside.
        name: Label for people; the slug when None.

    Returns:
        The brain's id of the project (a UUID).

    Raises:
        BrainApiError: The slug is taken or malformed.
    """
    return str(rest.post("/projects", {"slug": slug, "name": name or slug})["id"])


def mint_agent(rest: BrainRest, *, brain_url: str, slug: str, name: str) -> AgentCredentials:
    """Create an agent in a project. Each call makes a new token; the key is the project's.

    Args:
        rest: A signed-in administrator.
        brain_url: The address that the agent shall use; may be a proxy's.
        slug: The project.
        name: Label of the agent.

    Returns:
        The secrets, which the brain does not show again.

    Raises:
        BrainApiError: There is no such project.
    """
    minted = rest.post(f"/projects/{slug}/agents", {"name": name})
    return AgentCredentials(
        brain_url=brain_url,
        project_slug=slug,
        agent_id=str(minted["agent"]["id"]),
        name=name,
        token=str(minted["token"]),
        hmac_secret=str(minted["hmac_secret"]),
    )
