"""Parses records with the official CloudEvents SDK and prints what it understood of each as a line of JSON.

Standard input has a record a line, as JSON; bytes are in hex.
"""

import json
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, from_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

STRUCTURED = b"application/cloudevents"


def main():
    # All of it before the first answer: nobody reads that until all is written.
    for line in sys.stdin.readlines():
        record = json.loads(line)
        headers = {name: bytes.fromhex(value) for name, value in record["headers"]}
        # The rule of the Kafka protocol binding, section 3. The SDK's own from_kafka takes whatever has a ce_ header for binary.
        is_structured = headers["content-type"].startswith(STRUCTURED)
        parse = from_structured if is_structured else from_binary
        key = None if record["key"] is None else bytes.fromhex(record["key"])
        event = parse(KafkaMessage(headers, key, bytes.fromhex(record["value"])), JSONFormat(), CloudEvent)
        attributes = {name: text_of(value) for name, value in event.get_attributes().items() if value is not None}
        print(json.dumps({"attributes": attributes, "data": event.get_data()}))


def text_of(value):
    return value if isinstance(value, str) else value.isoformat(timespec="milliseconds").replace("+00:00", "Z")


main()
