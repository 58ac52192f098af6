"""One base of the errors that a person can do something about: what is the case, and the remedy."""


class Trouble(Exception):
    """Something cannot be done as asked. `message`: what is the case, with the rule that it breaks; `remedy`: what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.message, self.remedy = message, remedy
        super().__init__(f"{message} {remedy}".rstrip())
