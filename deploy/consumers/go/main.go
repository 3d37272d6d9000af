// Command consumer counts the events of each type from callbridge's topics, each event once.
//
// Settings are variables of the environment: KAFKA_BROKERS, KAFKA_TOPICS (comma-separated), KAFKA_GROUP, DATABASE (a file), SCHEMAS (a folder).
package main

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	_ "github.com/mattn/go-sqlite3"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// Where the id is the hash of a body without a time, only a record received within the seconds in which a sender repeats is a repeat.
	repeatsWithinMs = 10_000
	forEverMs       = 1 << 53
	// How long ids are remembered: at least as long as the topics keep their records (retention.ms), which can be read again until then.
	remembered = 7 * 24 * time.Hour
)

const tables = `
CREATE TABLE IF NOT EXISTS seen (id TEXT, received_ms INTEGER, seen_ms INTEGER, PRIMARY KEY (id, received_ms));
CREATE INDEX IF NOT EXISTS seen_by_age ON seen (seen_ms);
CREATE TABLE IF NOT EXISTS counts (type TEXT PRIMARY KEY, events INTEGER);
CREATE TABLE IF NOT EXISTS rejected (topic TEXT, part INTEGER, position INTEGER, reason TEXT, PRIMARY KEY (topic, part, position));
`

// schemas are those of the data of each command, by the name that an event gives in dataschema.
type schemas map[string]*jsonschema.Schema

// event is what the work needs of one; its data is valid by its schema.
type event struct {
	id, kind string
	hasTime  bool
	received time.Time
	data     map[string]any
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

// run reads until ctx is done.
func run(ctx context.Context) error {
	known, err := loadSchemas(cmp.Or(os.Getenv("SCHEMAS"), "../../schemas"))
	if err != nil {
		return err
	}
	database, err := sql.Open("sqlite3", os.Getenv("DATABASE"))
	if err != nil {
		return err
	}
	defer database.Close()
	if _, err := database.Exec(tables); err != nil {
		return err
	}
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(os.Getenv("KAFKA_BROKERS"), ",")...),
		kgo.ConsumeTopics(strings.Split(os.Getenv("KAFKA_TOPICS"), ",")...),
		kgo.ConsumerGroup(os.Getenv("KAFKA_GROUP")),
		// A new group begins with the oldest record, not with the next.
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.DisableAutoCommit(),
		// No partition goes to another member between the work and the commit.
		kgo.BlockRebalanceOnPoll(),
		// After a crash another member takes over after so long.
		kgo.SessionTimeout(10*time.Second),
	)
	if err != nil {
		return err
	}
	// Leaves the group, so that the others take over at once.
	defer kafka.CloseAllowingRebalance()
	for ctx.Err() == nil {
		fetches := kafka.PollRecords(ctx, 500)
		fetches.EachError(func(topic string, partition int32, err error) {
			if !errors.Is(err, context.Canceled) {
				log.Printf("Kafka: %s [%d]: %v", topic, partition, err) // The client tries again by itself.
			}
		})
		if records := fetches.Records(); len(records) > 0 {
			if err := handleAll(database, records, known); err != nil {
				return err
			}
			// Not ctx: the batch is finished and committed when the program is asked to stop.
			if err := kafka.CommitRecords(context.Background(), records...); err != nil {
				log.Printf("offsets not committed, the records will come again: %v", err)
			}
		}
		kafka.AllowRebalance()
	}
	return nil
}

// handleAll writes ids, work and rejected records in one transaction: together or not at all.
func handleAll(database *sql.DB, records []*kgo.Record, known schemas) error {
	transaction, err := database.Begin()
	if err != nil {
		return err
	}
	defer transaction.Rollback()
	for _, record := range records {
		if err := handle(transaction, record, known); err != nil {
			return err
		}
	}
	if _, err := transaction.Exec("DELETE FROM seen WHERE seen_ms < ?", time.Now().Add(-remembered).UnixMilli()); err != nil {
		return err
	}
	return transaction.Commit()
}

func handle(transaction *sql.Tx, record *kgo.Record, known schemas) error {
	event, err := readEvent(record, known)
	if err != nil { // Whatever is wrong with a record, it must not stop those after it.
		log.Printf("rejected %s [%d] %d", record.Topic, record.Partition, record.Offset)
		_, err = transaction.Exec("INSERT INTO rejected VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING", record.Topic, record.Partition, record.Offset, err.Error())
		return err
	}
	if isNew, err := isNew(transaction, event); err != nil || !isNew {
		return err
	}
	return work(transaction, event)
}

// isNew remembers the id of the event, and says whether it was unknown. This is atomic, and in the transaction of the work.
func isNew(transaction *sql.Tx, event event) (bool, error) {
	withinMs := repeatsWithinMs
	if event.hasTime {
		withinMs = forEverMs
	}
	inserted, err := transaction.Exec(`INSERT INTO seen SELECT ?1, ?2, ?3
		WHERE NOT EXISTS (SELECT 1 FROM seen WHERE id = ?1 AND abs(received_ms - ?2) <= ?4)`,
		event.id, event.received.UnixMilli(), time.Now().UnixMilli(), withinMs)
	if err != nil {
		return false, err
	}
	rows, err := inserted.RowsAffected()
	return rows == 1, err
}

// work is where yours goes: all that it writes to this database is written once for each event.
func work(transaction *sql.Tx, event event) error {
	_, err := transaction.Exec("INSERT INTO counts VALUES (?, 1) ON CONFLICT (type) DO UPDATE SET events = events + 1", event.kind)
	return err
}

// readEvent returns the record as an event, if its data is what its schema says.
func readEvent(record *kgo.Record, known schemas) (event, error) {
	envelope := map[string]any{}
	for _, header := range record.Headers {
		envelope[strings.TrimPrefix(header.Key, "ce_")] = string(header.Value)
	}
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(record.Value))
	if err != nil {
		return event{}, err
	}
	object, isObject := value.(map[string]any)
	if !isObject {
		return event{}, errors.New("the value is not an object")
	}
	envelope["data"] = object
	if contentType, _ := envelope["content-type"].(string); strings.HasPrefix(contentType, "application/cloudevents") {
		envelope = object
	}
	text := func(name string) string {
		text, _ := envelope[name].(string)
		return text
	}
	schema, isKnown := known[text("dataschema")]
	if !isKnown {
		return event{}, fmt.Errorf("no schema %q", text("dataschema"))
	}
	if err := schema.Validate(envelope["data"]); err != nil {
		return event{}, err
	}
	received, err := time.Parse(time.RFC3339, text("receivedtime"))
	if err != nil || text("id") == "" || text("type") == "" {
		return event{}, errors.New("no usable receivedtime, id or type")
	}
	hasTime := text("idbasis") == "key" || text("idbasis") == "body"
	data, _ := envelope["data"].(map[string]any)
	return event{text("id"), text("type"), hasTime, received, data}, nil
}

func loadSchemas(folder string) (schemas, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil {
		return nil, err
	}
	known := schemas{}
	compiler := jsonschema.NewCompiler()
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		document, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		envelope, _ := document.(map[string]any)
		definitions, _ := envelope["$defs"].(map[string]any)
		data, _ := definitions["data"].(map[string]any)
		id, hasID := data["$id"].(string)
		if !hasID {
			continue
		}
		if err := compiler.AddResource(id, data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if known[id], err = compiler.Compile(id); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	return known, nil
}
