"""Monitoring's state as it was before there were roles: one prediction a request, and the pair beside its label."""

import sqlite3
from contextlib import closing
from pathlib import Path

TABLES = """
CREATE TABLE predictions (number INTEGER PRIMARY KEY, request_id TEXT UNIQUE,
    time REAL, version TEXT, entity, score REAL, candidates BLOB);
CREATE INDEX newest ON predictions (version, time);
CREATE INDEX kept ON predictions (number) WHERE candidates IS NOT NULL;
CREATE INDEX oldest ON predictions (time);
CREATE TABLE labels (request_id TEXT PRIMARY KEY, entity, label INTEGER,
    time REAL, joined INTEGER, version TEXT, booked REAL, score REAL);
CREATE INDEX labelled ON labels (version, booked);
CREATE INDEX month ON labels (time);
"""
_ASIDE = """
DROP INDEX newest; DROP INDEX labelled; DROP INDEX kept; DROP INDEX oldest; DROP INDEX month; DROP TABLE sources;
ALTER TABLE predictions RENAME TO p; ALTER TABLE labels RENAME TO l;
"""
_BACK = """
INSERT INTO predictions SELECT number, request_id, time, version, entity, score, candidates FROM p;
INSERT INTO labels SELECT l.request_id, l.entity, l.label, l.time, l.joined, p.version, p.time, p.score
    FROM l LEFT JOIN p ON p.request_id = l.request_id AND p.label IS NOT NULL;
DROP TABLE p; DROP TABLE l; PRAGMA user_version = 3;
"""


def put_back(file: Path) -> None:
    "Write the state of one that knows no roles as version 3 of the tables had it."
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.executescript(_ASIDE + TABLES + _BACK)
