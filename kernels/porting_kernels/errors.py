"""The one base of every error that a user can see."""

from __future__ import annotations


class PortingError(Exception):
    """A failure with a message for people and an exit code for machines.

    message: what went wrong, in one line. required / met: the limit and the value that broke it.
    where: the place in the user's model or command. fix: what to try.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        *,
        required: object = None,
        met: object = None,
        where: object = None,
        fix: object = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.required = required
        self.met = met
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        lines = [self.message]
        for label, value in (
            ("required", self.required),
            ("met", self.met),
            ("where", self.where),
            ("try", self.fix),
        ):
            if value is not None:
                lines.append(f"  {label:<8} {value}")
        return "\n".join(lines)


class ShapeError(PortingError):
    """Operands whose shapes an operator cannot combine."""


class DtypeError(PortingError):
    """An operand of a dtype that an operator does not take."""


class UnsupportedOperatorError(PortingError):
    """No kernel and no function body gives this operator a meaning."""
