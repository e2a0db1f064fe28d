"""The experiments of the paper as configs by name; those of classification are generated from its tables.

- :mod:`rows` holds Tables 1-7 as printed and says which experiment each number belongs to, :mod:`detection` Table 8;
- :mod:`recipes` how each data set is trained, what a technique changes, and where each setting comes from;
- :mod:`text` writes the config of an experiment, :mod:`listing` the tables with the configs' names.

Only the standard library is used, so that names can be listed without loading a framework.
"""

from sosr_det.engine.paper.listing import table_numbers, table_text
from sosr_det.engine.paper.rows import TABLES, Cell, Experiment, Table, cells
from sosr_det.engine.paper.text import config_name, paper_config_names, paper_config_text

__all__ = [
    "TABLES",
    "Cell",
    "Experiment",
    "Table",
    "cells",
    "config_name",
    "paper_config_names",
    "paper_config_text",
    "table_numbers",
    "table_text",
]
