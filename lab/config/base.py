"""The base of every configuration model: frozen, keyword-only, no unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class LabModel(BaseModel):
    """Frozen and strict about names; each field's description is its documentation in `lab schema`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=())
