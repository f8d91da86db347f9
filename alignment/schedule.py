"""When a night runs: cron texts that Prefect schedules as their author means them."""

from __future__ import annotations

import re
from datetime import datetime

from cronsim import CronSim, CronSimError

NAMES = ("@hourly", "@daily", "@midnight", "@weekly", "@monthly", "@yearly", "@annually")
_FIELDS = 5
_LAST_WEEKDAY = re.compile(r"LW|\dL", re.I)
_ALLOWED = "give five fields (minute 0-59, hour 0-23, day 1-31, month 1-12, weekday 0-7), such as '0 2 * * *' for 02:00, or '@daily'"


def cron_problem(text: str) -> str:
    """Return what is wrong with a cron text, or an empty text.

    Six fields are refused: Prefect would read leading seconds as minutes and plan a night for every second of an hour.

    >>> cron_problem("0 2 * * 1-5"), cron_problem("61 2 * * *")[:10]
    ('', 'Bad minute')
    """
    if text.strip().lower() in NAMES:
        return ""
    parts = text.split()
    if len(parts) != _FIELDS:
        seconds = "; a field of seconds is not taken" if len(parts) == _FIELDS + 1 else ""
        return f"it has {len(parts)} fields{seconds}; {_ALLOWED}"
    if _LAST_WEEKDAY.search(parts[2]) or _LAST_WEEKDAY.search(parts[4]):
        return f"Prefect knows no LW and no last weekday of a month; {_ALLOWED}"
    try:
        next(CronSim(text, datetime(2026, 1, 1)))  # noqa: DTZ001 - any day does
    except (CronSimError, StopIteration) as error:
        return f"{error or 'it never comes'}; {_ALLOWED}"
    return ""
