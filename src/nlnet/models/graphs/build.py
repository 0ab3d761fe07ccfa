"""The networks with region graphs."""

from typing import Any

from nlnet.errors import UserError
from nlnet.models.build import build_model
from nlnet.models.graphs.network import GRAPHS, RegionGraphNet
from nlnet.models.networks import NETWORKS
from nlnet.models.options import check_one_of


def build_region_graph(
    name: str,
    *,
    num_classes: int,
    graph: str = "joint",
    graph_width: int = 512,
    graph_layers: int = 3,
    dropout: float = 0.3,
    **backbone: Any,
) -> RegionGraphNet:
    """The network `name` of `nlnet.build_model` with a region graph on its last features: see `RegionGraphNet`.

    Args:
        name: of the backbone.
        num_classes: the number of logits.
        graph: "joint", "similarity", "spacetime", or "none" for regions that are pooled alone.
        graph_width: channels of a node.
        graph_layers: graph convolutions of each branch.
        dropout: the probability before the linear layer.
        backbone: further arguments of `nlnet.build_model`.

    Raises UserError for a name or a value that is not one of these.
    """
    check_one_of("graph", graph, GRAPHS)
    for option, value in {"graph_width": graph_width, "graph_layers": graph_layers}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{option}={value!r}: give a whole number, at least 1.")
    if not 0 <= dropout < 1:
        raise UserError(f"dropout={dropout}: give a probability, at least 0 and below 1.")
    return RegionGraphNet(
        build_model(name, **backbone),
        num_classes=num_classes,
        graph=graph,
        width=graph_width,
        layers=graph_layers,
        dropout=dropout,
        fc_std=NETWORKS[name].fc_std,
    )
