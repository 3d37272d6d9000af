"""Counts the events of each type from callbridge's topics, each event once.

Settings are variables of the environment: KAFKA_BROKERS, KAFKA_TOPICS (comma-separated), KAFKA_GROUP, DATABASE (a file), SCHEMAS (a folder).
"""

import json
import logging
import os
import pathlib
import signal
import sqlite3
import threading
import time
from datetime import datetime

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, from_structured_event
from confluent_kafka import Consumer, KafkaException
from jsonschema import Draft202012Validator

# Where the id is the hash of a body without a time, only a record received within the seconds in which a sender repeats is a repeat.
REPEATS_WITHIN_MS = 10_000
FOR_EVER_MS = 2**53

# How long ids are remembered: at least as long as the topics keep their records (retention.ms), which can be read again until then.
REMEMBERED_MS = 7 * 24 * 3600 * 1000

TABLES = """
CREATE TABLE IF NOT EXISTS seen (id TEXT, received_ms INTEGER, seen_ms INTEGER, PRIMARY KEY (id, received_ms));
CREATE INDEX IF NOT EXISTS seen_by_age ON seen (seen_ms);
CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS rejected (topic TEXT, part INTEGER, position INTEGER, reason TEXT, PRIMARY KEY (topic, part, position));
"""


def load_schemas(folder):
    """The schema of the data of each command, by the name that an event gives in `dataschema`."""
    files = [json.loads(path.read_text()) for path in pathlib.Path(folder).glob("*.json")]
    schemas = [file["$defs"]["data"] for file in files if "$defs" in file]
    return {schema["$id"]: Draft202012Validator(schema) for schema in schemas if "$id" in schema}


def read_event(record, schemas):
    """The record as an event whose data is what its schema says, and when callbridge received it; an exception otherwise."""
    headers = dict(record.headers() or [])
    # Not from_kafka: it takes a structured record of callbridge, which has ce_ headers too, for a binary one.
    is_structured = headers["content-type"].startswith(b"application/cloudevents")
    parse = from_structured_event if is_structured else from_binary_event
    event = parse(KafkaMessage(headers, None, record.value()))
    schemas[event.get_dataschema()].validate(event.get_data())
    received = datetime.fromisoformat(event.get_extension("receivedtime"))
    return event, round(received.timestamp() * 1000)


def is_new(database, event, received_ms):
    """Remembers the id of the event, and says whether it was unknown. Atomic, and in the transaction of the work."""
    has_time = event.get_extension("idbasis") in ("key", "body")
    inserted = database.execute(
        "INSERT INTO seen SELECT :id, :received, :now"
        " WHERE NOT EXISTS (SELECT 1 FROM seen WHERE id = :id AND abs(received_ms - :received) <= :within)",
        {
            "id": event.get_id(),
            "received": received_ms,
            "now": now_ms(),
            "within": FOR_EVER_MS if has_time else REPEATS_WITHIN_MS,
        },
    )
    return inserted.rowcount == 1


def work(database, event):
    """Your work goes here: all that it writes to this database is written once for each event."""
    database.execute(
        "INSERT INTO counts VALUES (?, 1) ON CONFLICT (type) DO UPDATE SET events = events + 1", (event.get_type(),)
    )


def handle(database, record, schemas):
    try:
        event, received_ms = read_event(record, schemas)
    except Exception as error:  # Whatever is wrong with a record, it must not stop those after it.
        place = record.topic(), record.partition(), record.offset()
        logging.warning("rejected %s [%d] %d: %s", *place, type(error).__name__)
        database.execute("INSERT INTO rejected VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", (*place, str(error)[:200]))
        return
    if is_new(database, event, received_ms):
        work(database, event)


def run(consumer, database, schemas, stopping):
    while not stopping.is_set():
        messages = consumer.consume(num_messages=500, timeout=1.0)
        for message in messages:
            if message.error():
                logging.warning("Kafka: %s", message.error())  # The client tries again by itself.
        records = [message for message in messages if not message.error()]
        if not records:
            continue
        with database:  # One transaction: ids, work and rejected records are written together or not at all.
            for record in records:
                handle(database, record, schemas)
            database.execute("DELETE FROM seen WHERE seen_ms < ?", (now_ms() - REMEMBERED_MS,))
        try:
            consumer.commit(asynchronous=False)
        except KafkaException as error:
            logging.warning("offsets not committed, the records will come again: %s", error)


def now_ms():
    return int(time.time() * 1000)


def main():
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda _signal, _frame: stopping.set())
    signal.signal(signal.SIGINT, lambda _signal, _frame: stopping.set())
    schemas = load_schemas(os.environ.get("SCHEMAS", "../../schemas"))
    database = sqlite3.connect(os.environ["DATABASE"])
    database.executescript(TABLES)
    consumer = Consumer({
        "bootstrap.servers": os.environ["KAFKA_BROKERS"],
        "group.id": os.environ["KAFKA_GROUP"],
        "auto.offset.reset": "earliest",  # A new group begins with the oldest record, not with the next.
        "enable.auto.commit": False,
        "session.timeout.ms": 10_000,  # After a crash another member takes over after so long.
    })
    consumer.subscribe(os.environ["KAFKA_TOPICS"].split(","))
    try:
        run(consumer, database, schemas, stopping)
    finally:
        consumer.close()  # Leaves the group, so that the others take over at once.


if __name__ == "__main__":
    main()
