"""`align status`."""

from __future__ import annotations

from flows.cli.base import Json, app, command, print_json, print_rows, start


@command(app, "status")
def status_command(as_json: Json = False) -> None:
    """Show what is in production, the last night, its stages, and what waits for people."""
    settings = start()
    from alignment.gate_floor import weakenings
    from alignment.release import current
    from alignment.store import migrate, query, sql, store_path
    from flows.guards import coverage

    if store_path(settings.home).exists():
        migrate(settings.home)
    weakened = list(map(str, weakenings(settings.gate)))
    nights = query(settings.home, sql("flows", "status_nights"))
    files = query(settings.home, sql("flows", "status_files"))
    reasons = query(settings.home, "SELECT reason, count(*) AS lines FROM open_quarantine GROUP BY reason ORDER BY lines DESC")
    aside = query(settings.home, "SELECT source, path, kind, reason, set_aside_at FROM open_set_aside ORDER BY set_aside_at DESC LIMIT 20")
    guards = coverage(settings) if settings.moderation.guards else []
    [reviews] = query(settings.home, "SELECT count(*) AS open FROM open_reviews")
    if as_json:
        print_json(
            {
                "release": current(settings.home),
                "nights": nights,
                "files": files,
                "set_aside": aside,
                "quarantine": reasons,
                "open_reviews": reviews["open"],
                "guards": guards,
                "gate": {"weakened": weakened, "unsafe": settings.gate.unsafe},
            }
        )
        return
    print(f"In production: {current(settings.home)}; open reviews: {reviews['open']}")
    for one in weakened:
        print(f"The gate is weakened (reason given: {settings.gate.unsafe}): {one}")
    listed = [("Nights", nights), ("Log files", files), ("Log files set aside", aside), ("Quarantine", reasons)]
    for title, rows in [*listed, *([("Guards", guards)] if guards else [])]:
        print(f"\n{title}")
        print_rows(rows, as_json=False)
