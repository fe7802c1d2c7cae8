"""The manual page and the completions, from the options of the command: python3 -m tools.generate

Run it after a change of the options, and commit what it writes.
"""

from __future__ import annotations

from pathlib import Path

from tools import completions, manual

ROOT = Path(__file__).resolve().parent.parent

FILES = {
    "completions/_rawservers": completions.zsh,
    "completions/rawservers": completions.bash,
    "completions/rawservers.fish": completions.fish,
    "docs/rawservers.1": manual.page,
}

if __name__ == "__main__":
    for name, make in FILES.items():
        path = ROOT / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(make())
