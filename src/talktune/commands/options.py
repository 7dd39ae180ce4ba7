"""Options that several commands share, each with its help once."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from talktune.config import ranges

Files = Annotated[
    list[Path],
    Parameter(help="JSONL (also gzip): OpenAI or ShareGPT conversations, or the output of `talktune score`."),
]
LabelledFile = Annotated[
    Path, Parameter(help='JSONL of {"request", "response", "role", "next_state", "label"}, label -1, 0 or 1.')
]
Store = Annotated[str, Parameter(help="The server's store: a SQLite file, or a database URL.")]
Url = Annotated[str, Parameter(help="Address of a running `talktune serve`; its key is read from TALKTUNE_API_KEY.")]
Output = Annotated[Path, Parameter(alias="-o")]
Seed = Annotated[ranges.Seed, Parameter(help="Everything random comes from this.")]
Strict = Annotated[bool, Parameter(help="Stop at the first bad line instead of reporting it.")]
Resume = Annotated[bool, Parameter(help="Go on with the run in that directory.")]
AsJson = Annotated[bool, Parameter(name="--json", help="Print JSON instead of tables.")]
