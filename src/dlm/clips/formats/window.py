"""A JSON text of any length, read value by value, of which only the part at hand is held.

[{...}, {...}, {...}, ...
        ^ at, in `line`; what lies before is let go, what lies behind is read when it is needed
"""

import json
import re
from json import JSONDecodeError
from typing import TextIO

BLANK = re.compile(r"[ \t\r\n]*")  # as JSON has it
DECODER = json.JSONDecoder()
LONGEST_ROW = 1 << 24  # letters
PIECE = 1 << 18  # letters that are read at once
PIECE_END = 16  # letters: an error so near the end of what is read may be of the cut


class Window:
    """The part of a text that is being read: from `at` on, which is in `line`."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.text, self.at, self.line = "", 0, 1

    def next(self) -> str:
        """The next letter that is no blank; none at the end."""
        while True:
            blank = BLANK.match(self.text, self.at)
            self._go_to(blank.end() if blank else self.at)
            if self.at < len(self.text) or not self._more():
                return self.text[self.at : self.at + 1]

    def value(self) -> object:
        """The value that begins here. Raises ValueError for what is none."""
        while True:
            try:
                value, end = DECODER.raw_decode(self.text, self.at)
            except JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self.text) - PIECE_END
                if not cut or len(self.text) - self.at > LONGEST_ROW or not self._more():
                    raise
                continue
            if end < len(self.text) or not self._more():  # a number may go on
                self._go_to(end)
                return value

    def pass_over(self) -> bool:
        """Go on at the next line that begins an object; False where none does."""
        while (end := self.text.find("\n{", self.at)) < 0:
            self._go_to(max(self.at, len(self.text) - 1))
            if not self._more():
                return False
        self._go_to(end + 1)
        return True

    def line_of(self, error: Exception) -> int:
        """The line that an error speaks of."""
        broken = error.pos if isinstance(error, JSONDecodeError) else self.at
        return self.line + self.text.count("\n", self.at, broken)

    def _go_to(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _more(self) -> bool:
        """Read on, as much again as there is, and let go what was read; False at the end."""
        left = len(self.text) - self.at
        piece = self._file.read(max(PIECE, left))
        if piece:
            self.text, self.at = self.text[self.at :] + piece, 0
        return bool(piece)
