"""Prints what a consumer of deploy/consumers has written to its database, as JSON.

Usage: database.py FILE
"""

import json
import sqlite3
import sys


def main():
    database = sqlite3.connect(sys.argv[1], timeout=60)
    counts = dict(database.execute("SELECT type, events FROM counts").fetchall())
    places = database.execute("SELECT topic, part, position FROM rejected").fetchall()
    seen = database.execute("SELECT count(*) FROM seen").fetchone()[0]
    print(json.dumps({"counts": counts, "rejected": len(places), "seen": seen}))


main()
