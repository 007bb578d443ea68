"""Where a network's residual branches are, as text and JSON."""

import json
from collections.abc import Iterator, Sequence

from branches import trace_connections
from suite.defences import defence_names
from suite.networks.classifier import load_model


def listed_branches(archs: Sequence[str], as_json: bool = False) -> Iterator[str]:
    """Yield for each network where branch hooks go, and the additions that are left alone.

    Random weights do: neither images nor files of weights are needed.

    Raises:
        ValueError: a network has no residual branch; after it was yielded.
    """
    for arch in archs:
        model = load_model(defence_names.undefended_name(arch), pretrained=False)
        found = trace_connections(model.network, model.input_size)
        yield _connections_json(arch, found) if as_json else _connections_text(arch, found)
        if not any(connection.module for connection in found):
            raise ValueError(f"no residual branch in {arch}: gamma would do nothing")


def _connections_text(arch: str, found: list) -> str:
    """Return a line per connection of branches.trace_connections, and the number of branches."""
    lines = [f"{arch}:"]
    for connection in found:
        place = connection.place or "the network itself"
        if connection.module:
            what = f"branch {connection.module}"
        elif connection.residual:
            what = f"left out: {connection.reason}, in {place}"
        else:
            what = f"left alone: no skip connection, in {place}"
        lines.append(f"{connection.kind:<14} {what}")
    return "\n".join([*lines, f"{sum(bool(c.module) for c in found)} residual branches"])


def _connections_json(arch: str, found: list) -> str:
    """Return the connections of branches.trace_connections as a line of JSON."""
    keys = ("kind", "place", "module", "residual")
    listed = [{key: getattr(connection, key) for key in keys} for connection in found]
    return json.dumps({"arch": arch, "connections": listed})
