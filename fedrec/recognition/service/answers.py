"""What the service answers, as the API's documentation shows it."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ClassShare(BaseModel):
    """A class and its probability."""

    name: str
    probability: float


class Classes(BaseModel):
    """The most probable classes of a photo."""

    classes: list[ClassShare]
    calibrated: bool = Field(description="Whether probabilities were calibrated on public photos.")


class Similar(BaseModel):
    """A product whose photo looks like the query."""

    score: float = Field(description="Cosine of the angle between the photos' embeddings.")
    product: str
    title: str
    merchant: str = Field(description="Empty for the catalogue's own products.")
    link: str | None
    price: float | None
    category: str | None
    photo: int = Field(description="Number of the photo, for /photos/{number}.")
    has_picture: bool = Field(description="Whether /photos/{number} has a picture.")


class Products(BaseModel):
    """Similar products, the most similar first."""

    products: list[Similar]
    compared_by: str = Field(description="The model whose embeddings are compared.")


class Copy(BaseModel):
    """A photo of the catalogue that the query was made from, or that was made from the query."""

    score: float
    test: str = Field(description="Which test decided.")
    changes: list[str]
    product: str
    title: str
    merchant: str
    link: str | None
    photo: int
    has_picture: bool


class Copies(BaseModel):
    """Copies in the catalogue, the surest first."""

    copies: list[Copy]


class FoundFlaw(BaseModel):
    """A flaw of a photo."""

    flaw: str
    hint: bool = Field(description="Whether it may well be intended.")
    problem: str
    advice: str
    value: float
    limit: float


class Quality(BaseModel):
    """What a seller should mend."""

    good: bool
    flaws: list[FoundFlaw]


class Evidence(BaseModel):
    """Where the evidence for a class lies."""

    name: str = Field(description="The class.")
    exact: bool = Field(description="Whether the map's parts add up to the score.")
    picture: str = Field(description="The photo with the map, as a data URL of a JPEG.")


class Analysis(BaseModel):
    """Everything about one photo at once; parts that weren't asked for, or can't be told, are null."""

    classes: Classes | None
    evidence: Evidence | None
    similar: Products | None
    copies: Copies | None
    quality: Quality | None


class ModelFacts(BaseModel):
    """What is in use."""

    title: str
    model: str = Field(description="The kind of network.")
    training: str | None = Field(description="Id of the training; null for a public network alone.")
    classes: list[str]
    evidence: str | None
    calibrated: bool
    epsilon: float | None
    delta: float | None
    warnings: list[str]
    products: int | None = Field(description="Products in the catalogue; null without one.")
    copies: bool = Field(description="Whether copies can be looked for.")


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="A stable name of the reason.")
    detail: str
