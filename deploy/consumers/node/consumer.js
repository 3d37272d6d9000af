// Counts the events of each type from callbridge's topics, each event once.
//
// Settings are variables of the environment: KAFKA_BROKERS, KAFKA_TOPICS (comma-separated), KAFKA_GROUP, DATABASE (a file), SCHEMAS (a folder).

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { Consumer, stringDeserializers } from '@platformatic/kafka'
import Ajv from 'ajv/dist/2020.js'

// Where the id is the hash of a body without a time, only a record received within the seconds in which a sender repeats is a repeat.
const REPEATS_WITHIN_MS = 10_000
const FOR_EVER_MS = Number.MAX_SAFE_INTEGER

// How long ids are remembered: at least as long as the topics keep their records (retention.ms), which can be read again until then.
const REMEMBERED_MS = 7 * 24 * 3600 * 1000

const { KAFKA_BROKERS, KAFKA_TOPICS, KAFKA_GROUP, DATABASE, SCHEMAS = '../../schemas' } = process.env

const database = new DatabaseSync(DATABASE)
database.exec(`
CREATE TABLE IF NOT EXISTS seen (id TEXT, received_ms INTEGER, seen_ms INTEGER, PRIMARY KEY (id, received_ms));
CREATE INDEX IF NOT EXISTS seen_by_age ON seen (seen_ms);
CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS rejected (topic TEXT, part INTEGER, position INTEGER, reason TEXT, PRIMARY KEY (topic, part, position));
`)
// Remembers an id, if it is unknown. This is atomic, and in the transaction of the work.
const remember = database.prepare(`INSERT INTO seen SELECT :id, :received, :now
  WHERE NOT EXISTS (SELECT 1 FROM seen WHERE id = :id AND abs(received_ms - :received) <= :within)`)
const forget = database.prepare('DELETE FROM seen WHERE seen_ms < ?')
const reject = database.prepare('INSERT INTO rejected VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING')
const count = database.prepare('INSERT INTO counts VALUES (?, 1) ON CONFLICT (type) DO UPDATE SET events = events + 1')

// The validators of the data of each command, by the name that an event gives in dataschema.
function loadSchemas (folder) {
  const ajv = new Ajv()
  const files = readdirSync(folder).filter(name => name.endsWith('.json'))
  const schemas = files.map(name => JSON.parse(readFileSync(join(folder, name))).$defs?.data)
  return new Map(schemas.filter(schema => schema?.$id).map(schema => [schema.$id, ajv.compile(schema)]))
}

// The record as an event whose data is what its schema says; throws otherwise.
function readEvent (record, schemas) {
  const attributes = Object.fromEntries([...record.headers].map(([name, value]) => [name.replace(/^ce_/, ''), value]))
  const value = JSON.parse(record.value)
  const isStructured = attributes['content-type'].startsWith('application/cloudevents')
  const event = isStructured ? value : { ...attributes, data: value }
  const validate = schemas.get(event.dataschema)
  if (!validate) throw new Error(`no schema ${event.dataschema}`)
  if (!validate(event.data)) throw new Error(`${validate.errors[0].instancePath} ${validate.errors[0].message}`)
  const receivedMs = Date.parse(event.receivedtime)
  if (!event.id || !event.type || Number.isNaN(receivedMs)) throw new Error('no usable id, type or receivedtime')
  return { ...event, receivedMs }
}

function handle (record, schemas) {
  let event
  try {
    event = readEvent(record, schemas)
  } catch (error) { // Whatever is wrong with a record, it must not stop those after it.
    console.warn(`rejected ${record.topic} [${record.partition}] ${record.offset}: ${error.name}`)
    reject.run(record.topic, record.partition, record.offset, error.message)
    return
  }
  const within = ['key', 'body'].includes(event.idbasis) ? FOR_EVER_MS : REPEATS_WITHIN_MS
  const { changes } = remember.run({ id: event.id, received: event.receivedMs, now: Date.now(), within })
  if (changes === 1) work(event)
}

// Your work goes here: all that it writes to this database is written once for each event.
function work (event) {
  count.run(event.type)
}

const consumer = new Consumer({
  clientId: 'callbridge-example',
  bootstrapBrokers: KAFKA_BROKERS.split(','),
  groupId: KAFKA_GROUP,
  autocommit: false,
  sessionTimeout: 10_000, // After a crash another member takes over after so long.
  retries: true, // While Kafka is away.
  retryDelay: 1000,
  deserializers: stringDeserializers
})
const schemas = loadSchemas(SCHEMAS)
// A new group begins with the oldest record, not with the next.
const stream = await consumer.consume({ topics: KAFKA_TOPICS.split(','), mode: 'committed', fallbackMode: 'earliest', maxWaitTime: 500 })
for (const signal of ['SIGTERM', 'SIGINT']) process.once(signal, () => stream.close())

const handled = new Map() // The last record of each partition whose offset is not committed yet.

async function commit () {
  for (const last of handled.values()) {
    try {
      await last.commit()
    } catch (error) {
      console.warn(`offset not committed, records will come again: ${error.message}`)
    }
  }
  handled.clear()
}

for await (const record of stream) {
  database.exec('BEGIN IMMEDIATE')
  handle(record, schemas)
  forget.run(Date.now() - REMEMBERED_MS)
  database.exec('COMMIT') // Id, work or rejected record are written together or not at all.
  handled.set(`${record.topic} ${record.partition}`, record)
  if (stream.readableLength === 0) await commit()
}
await commit()
await consumer.close() // Leaves the group, so that the others take over at once.
