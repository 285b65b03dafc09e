"""For the tests of your own sagas: given, when, then, without a loop, a server or a sleep.

`Scenario` drives one instance of a saga through the step that production runs. The pytest plugin, which pytest loads by
itself, gives the fixture `saga_runner`: a real runner on memory and on SQLite, with a clock that moves when told.
"""

from .scenario import Scenario
from .virtual import VirtualRunner

__all__ = ["Scenario", "VirtualRunner"]
