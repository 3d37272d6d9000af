"""Reads topics whole and prints each record as a line of JSON; bytes are in hex.

Usage: read.py '{"bootstrap.servers": "..."}' TOPIC...
"""

import json
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition


def main():
    config = json.loads(sys.argv[1])
    # A group id is demanded, though nothing joins it.
    consumer = Consumer({**config, "group.id": "callbridge-foreign", "enable.auto.commit": False})
    ends = {}
    for topic in sys.argv[2:]:
        for partition in consumer.list_topics(topic, timeout=10).topics[topic].partitions:
            first, end = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            if first < end:
                ends[topic, partition] = end
    consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING) for topic, partition in ends])
    while ends:
        message = consumer.poll(10)
        if message is None:
            sys.exit(f"not read to the end: {ends}")
        if message.error():
            sys.exit(str(message.error()))
        print(line_of(message))
        place = message.topic(), message.partition()
        if place in ends and message.offset() + 1 >= ends[place]:
            del ends[place]
    consumer.close()


def line_of(message):
    key = message.key()
    return json.dumps({
        "topic": message.topic(),
        "partition": message.partition(),
        "offset": message.offset(),
        "key": None if key is None else key.hex(),
        "headers": [[name, (value or b"").hex()] for name, value in message.headers() or []],
        "value": (message.value() or b"").hex(),
    })


main()
