"""A saga as a picture: what it reacts to, and what it may do then, read from its class and its handlers' own code."""

from .mermaid import mermaid
from .outline import outline
from .phases import state_diagram, unreached
from .reaction import Outline, Reaction
from .svg import svg

__all__ = ["Outline", "Reaction", "mermaid", "outline", "state_diagram", "svg", "unreached"]
