"""Which instants are the official closes of sessions: the grid that daily features stand on. Pure."""

from __future__ import annotations

from datetime import datetime, time
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict

_FRIDAY = 4


class DailySessions(BaseModel):
    """One session each Monday to Friday, which closes at one local time.

    Holidays need no table: nobody publishes an official close on them. A session that ends early is published with
    the ordinary closing time as its event time: later than it was, so never ahead.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    zone: ZoneInfo
    """Of the exchange, such as America/New_York."""
    close: time
    """Local time of the official close, to the second."""

    def is_close(self, event_time_us: int) -> bool:
        """Whether a session closes at exactly that instant."""
        seconds, rest = divmod(event_time_us, 1_000_000)
        if rest:
            return False
        try:
            local = datetime.fromtimestamp(seconds, self.zone)
        except (OverflowError, ValueError):  # local time would leave the years 1 to 9999
            return False
        return local.time() == self.close and local.weekday() <= _FRIDAY
