"""Texts that know which reply they are.

What a model knows of a reply, such as its tokens, is found again by the reply's id and never by
comparing texts: the arena cuts and cleans what it stores. `IdentifiedReply` carries the id from
whoever gave the reply to the arena, which notes it in the turn (`populora_env.Turn.reply_id`).
"""


class IdentifiedReply(str):
    """A reply with an id; equal to any text of the same letters.

    Attributes:
        reply_id: Its id.
    """

    __slots__ = ("reply_id",)
    reply_id: str

    def __new__(cls, text: str, reply_id: str) -> "IdentifiedReply":
        """Make one of a text and an id."""
        made = super().__new__(cls, text)
        made.reply_id = reply_id
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return str(self), self.reply_id


def reply_id(reply: str) -> str:
    """The id of a reply; empty if it has none."""
    return reply.reply_id if isinstance(reply, IdentifiedReply) else ""
