import static java.nio.charset.StandardCharsets.UTF_8;

import com.networknt.schema.Error;
import com.networknt.schema.Schema;
import com.networknt.schema.SchemaRegistry;
import com.networknt.schema.SpecificationVersion;
import java.nio.file.Files;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.time.Duration;
import java.time.Instant;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicBoolean;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.errors.RebalanceInProgressException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.slf4j.Logger;
import org.slf4j.LoggerFactory;
import tools.jackson.core.StreamReadConstraints;
import tools.jackson.core.json.JsonFactory;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;
import tools.jackson.databind.node.ObjectNode;

/**
 * Counts the events of each type from callbridge's topics, each event once.
 *
 * <p>Settings are variables of the environment: KAFKA_BROKERS, KAFKA_TOPICS (comma-separated), KAFKA_GROUP, DATABASE (a file), SCHEMAS (a folder).
 */
public final class EventConsumer {
    /** Where the id is the hash of a body without a time, only a record received within the seconds in which a sender repeats is a repeat. */
    private static final long REPEATS_WITHIN_MS = 10_000;
    private static final long FOR_EVER_MS = 1L << 53;
    /** How long ids are remembered: at least as long as the topics keep their records (retention.ms), which can be read again until then. */
    private static final long REMEMBERED_MS = Duration.ofDays(7).toMillis();

    private static final List<String> TABLES = List.of(
        "CREATE TABLE IF NOT EXISTS seen (id TEXT, received_ms INTEGER, seen_ms INTEGER, PRIMARY KEY (id, received_ms))",
        "CREATE INDEX IF NOT EXISTS seen_by_age ON seen (seen_ms)",
        "CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, events INTEGER)",
        "CREATE TABLE IF NOT EXISTS rejected (topic TEXT, part INTEGER, position INTEGER, reason TEXT, PRIMARY KEY (topic, part, position))");

    private static final Logger LOG = LoggerFactory.getLogger(EventConsumer.class);
    /** The callback is Tencent's JSON: callbridge publishes up to 500 levels, inside the envelope, and numbers of any length. */
    private static final JsonMapper JSON = JsonMapper.builder(JsonFactory.builder()
        .streamReadConstraints(StreamReadConstraints.builder().maxNestingDepth(600).maxNumberLength(262_144).build())
        .build()).build();

    private final Connection database;
    private final Map<String, Schema> schemas;

    /** What the work needs of an event; {@code data} is valid by its schema. */
    private record Event(String id, String type, long receivedMs, long repeatsWithinMs, JsonNode data) {}

    private EventConsumer(Connection database, Map<String, Schema> schemas) {
        this.database = database;
        this.schemas = schemas;
    }

    public static void main(String[] args) throws Exception {
        AtomicBoolean stopping = new AtomicBoolean();
        Thread main = Thread.currentThread();
        // On SIGTERM the batch is finished and the group left before the JVM ends, with exit code 143.
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopping.set(true);
            try {
                main.join();
            } catch (InterruptedException interrupted) {
                Thread.currentThread().interrupt();
            }
        }));
        Properties properties = new Properties();
        properties.put("bootstrap.servers", System.getenv("KAFKA_BROKERS"));
        properties.put("group.id", System.getenv("KAFKA_GROUP"));
        properties.put("auto.offset.reset", "earliest"); // A new group begins with the oldest record, not with the next.
        properties.put("enable.auto.commit", "false");
        properties.put("session.timeout.ms", "10000"); // After a crash another member takes over after so long.
        try (Connection database = DriverManager.getConnection("jdbc:sqlite:" + System.getenv("DATABASE"));
                // Closing it leaves the group, so that the others take over at once.
                KafkaConsumer<byte[], byte[]> kafka =
                    new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            for (String table : TABLES) {
                execute(database, table);
            }
            database.setAutoCommit(false);
            kafka.subscribe(List.of(System.getenv("KAFKA_TOPICS").split(",")));
            new EventConsumer(database, loadSchemas(System.getenv().getOrDefault("SCHEMAS", "../../schemas"))).run(kafka, stopping);
        }
    }

    private void run(KafkaConsumer<byte[], byte[]> kafka, AtomicBoolean stopping) throws SQLException {
        while (!stopping.get()) {
            ConsumerRecords<byte[], byte[]> records = kafka.poll(Duration.ofSeconds(1));
            if (records.isEmpty()) {
                continue;
            }
            for (ConsumerRecord<byte[], byte[]> record : records) {
                handle(record);
            }
            execute(database, "DELETE FROM seen WHERE seen_ms < ?", System.currentTimeMillis() - REMEMBERED_MS);
            database.commit(); // Ids, work and rejected records are written together or not at all.
            try {
                kafka.commitSync();
            } catch (CommitFailedException | RebalanceInProgressException error) {
                LOG.warn("offsets not committed, the records will come again: {}", error.getMessage());
            }
        }
    }

    private void handle(ConsumerRecord<byte[], byte[]> record) throws SQLException {
        Event event;
        try {
            event = readEvent(record);
        } catch (RuntimeException error) { // Whatever is wrong with a record, it must not stop those after it.
            LOG.warn("rejected {} [{}] {}: {}", record.topic(), record.partition(), record.offset(), error.getClass().getSimpleName());
            execute(database, "INSERT INTO rejected VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                record.topic(), record.partition(), record.offset(), String.valueOf(error.getMessage()));
            return;
        }
        // Remembers the id, if it is unknown. This is atomic, and in the transaction of the work.
        int inserted = execute(database,
            "INSERT INTO seen SELECT ?1, ?2, ?3 WHERE NOT EXISTS (SELECT 1 FROM seen WHERE id = ?1 AND abs(received_ms - ?2) <= ?4)",
            event.id, event.receivedMs, System.currentTimeMillis(), event.repeatsWithinMs);
        if (inserted == 1) {
            work(event);
        }
    }

    /** Your work goes here: all that it writes to this database is written once for each event. */
    private void work(Event event) throws SQLException {
        execute(database, "INSERT INTO counts VALUES (?, 1) ON CONFLICT (type) DO UPDATE SET events = events + 1", event.type);
    }

    /** The record as an event whose data is what its schema says; an exception otherwise. */
    private Event readEvent(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode envelope = JSON.createObjectNode();
        JsonNode value = JSON.readTree(record.value());
        Header contentType = record.headers().lastHeader("content-type");
        if (new String(contentType.value(), UTF_8).startsWith("application/cloudevents")) {
            envelope.setAll((ObjectNode) value);
        } else {
            record.headers().forEach(header -> envelope.put(header.key().replaceFirst("^ce_", ""), new String(header.value(), UTF_8)));
            envelope.set("data", value);
        }
        JsonNode data = envelope.required("data");
        List<Error> errors = schemas.get(envelope.required("dataschema").stringValue()).validate(data);
        if (!errors.isEmpty()) {
            throw new IllegalArgumentException(errors.get(0).toString());
        }
        boolean hasTime = List.of("key", "body").contains(envelope.required("idbasis").stringValue());
        long receivedMs = Instant.parse(envelope.required("receivedtime").stringValue()).toEpochMilli();
        return new Event(envelope.required("id").stringValue(), envelope.required("type").stringValue(), receivedMs,
            hasTime ? FOR_EVER_MS : REPEATS_WITHIN_MS, data);
    }

    /** The schema of the data of each command, by the name that an event gives in dataschema. */
    private static Map<String, Schema> loadSchemas(String folder) throws Exception {
        SchemaRegistry registry = SchemaRegistry.withDefaultDialect(SpecificationVersion.DRAFT_2020_12);
        Map<String, Schema> schemas = new HashMap<>();
        try (var files = Files.newDirectoryStream(Path.of(folder), "*.json")) {
            for (Path file : files) {
                JsonNode schema = JSON.readTree(Files.readAllBytes(file)).path("$defs").path("data");
                if (schema.has("$id")) {
                    schemas.put(schema.get("$id").stringValue(), registry.getSchema(schema));
                }
            }
        }
        return schemas;
    }

    private static int execute(Connection database, String sql, Object... values) throws SQLException {
        try (var statement = database.prepareStatement(sql)) {
            for (int index = 0; index < values.length; index++) {
                statement.setObject(index + 1, values[index]);
            }
            return statement.executeUpdate();
        }
    }
}
