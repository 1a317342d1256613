"""A merchant's own photos and models, as a plan asks for them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from fedrec.clients.merchant import TrainingData
from fedrec.protocol.plan import TrainingPlan
from fedrec.vision.datasets import open_folder
from fedrec.vision.folders import Layout
from fedrec.vision.inputs import InputShape, model_inputs, to_inputs
from fedrec.vision.models import registry


def build_model(plan: TrainingPlan) -> nn.Module:
    """Build the plan's model; its initial weights come from the server with the first round."""
    return registry.get(plan.model).build(
        classes=len(plan.classes), channels=plan.channels, size=plan.image_size, seed=0
    )


def photos_for(plan: TrainingPlan, folder: Path, *, layout: Layout, device: torch.device) -> TrainingData:
    """Read a folder of photos as the plan's model takes it; photos of other classes are left out.

    The content's hash is of all the folder's photos: another list of classes is no change of the data.

    Raises ``ConfigError`` if the plan's unit is the product and there are no folders of products, and
    ``DataError`` if the folder is missing or holds no usable photo of the plan's classes.
    """
    splits = open_folder(folder, classes=plan.classes, layout=layout, unit=plan.unit)
    images = splits.train
    inputs = model_inputs(
        images,
        registry.get(plan.model),
        InputShape(channels=plan.channels, size=plan.image_size),
        views=plan.views,
        progress=lambda done, total: None,
    )
    return TrainingData(
        inputs=to_inputs(inputs, plan.model).to(device),
        labels=torch.tensor(images.labels).to(device),
        content_hash=splits.content_hash,
    )
