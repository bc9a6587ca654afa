"""Pages of deployments. The token is the last strategy that was shown, so a page is right whatever was added since."""

from __future__ import annotations

from collections.abc import Sequence

from modelstore.deployments import Deployment
from modelstore.names import is_strategy
from runtime.validation import Violations

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1000


def page(deployments: Sequence[Deployment], page_size: int, page_token: str) -> tuple[list[Deployment], str]:
    """The page after a token, and the token of the next page (empty when there is none).

    `deployments` are sorted by strategy; page size 0 is the default. Raises InvalidInputError.
    """
    violations = Violations()
    if not 0 <= page_size <= MAX_PAGE_SIZE:
        violations.add("page_size", f"is {page_size}; must be 1 to {MAX_PAGE_SIZE}, or 0 for {DEFAULT_PAGE_SIZE}")
    if page_token and not is_strategy(page_token):
        violations.add("page_token", "is not a token of this call: pass next_page_token as it came")
    violations.raise_if_any()
    rest = [deployment for deployment in deployments if deployment.strategy > page_token]
    shown = rest[: page_size or DEFAULT_PAGE_SIZE]
    return shown, shown[-1].strategy if len(rest) > len(shown) else ""
