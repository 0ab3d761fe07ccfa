"""Video classification by what is in the regions of a clip, and by how a graph relates them."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig
from torch import Tensor, nn

from nlnet.errors import UserError
from nlnet.evaluation.views import Views
from nlnet.tasks.classification import ClassificationTask
from nlnet.tasks.task import Batch


class RegionTask(ClassificationTask):
    """A classification of clips with boxes by a network (clip, boxes) -> logits: see
    `nlnet.models.graphs.network.RegionGraphNet` and `ClassificationTask`.

    As published it is trained in two stages: a network of `nlnet.build_model` alone, then with the graph, from
    `init.checkpoint`.
    """

    predictor = "nlnet.prediction.regions.predict.predict_regions"

    @classmethod
    def initial_weights(cls, net: nn.Module, init: Mapping[str, Any], model: Mapping[str, Any]) -> list[str]:
        """Those of the backbone; the graph and the classifier are new."""
        return super().initial_weights(getattr(net, "backbone", net), init, model)

    @classmethod
    def plan_evaluation(cls, protocol: DictConfig, data: Mapping[str, Any]) -> Views | None:
        if protocol.name != "center":
            raise UserError(
                f"protocol={protocol.name}: a network of regions is tested on the middle clip and crop, whose regions"
                " the data have; leave it out"
            )
        return None

    def logits(self, batch: Batch) -> Tensor:
        return self(batch["inputs"], batch["boxes"])
