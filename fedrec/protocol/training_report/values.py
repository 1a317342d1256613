"""Define the types of numbers that several sections of a training's report have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]
Epsilon = Annotated[float, Field(ge=0)]
"""A privacy loss; where there is no guarantee, the field is None."""
