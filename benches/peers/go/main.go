// Takes Tencent's callbacks with net/http and publishes them with franz-go, as one would who writes it in a day.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	bodyBytesMax   = 256 << 10
	signatureAge   = time.Minute
	kafkaDeadline  = 1500 * time.Millisecond
	drainDeadline  = 8 * time.Second
	taken          = `{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}`
	refused        = `{"ActionStatus":"FAIL","ErrorInfo":%q,"ErrorCode":1}`
	afterSubscribe = "OfficialAccount.CallbackAfterAddSubscriber"
)

type bridge struct {
	kafka      *kgo.Client
	app        string
	token      string
	topics     map[string]string
	afterKafka bool
}

type callback struct {
	CallbackCommand string
	OfficialAccount string `json:"Official_Account"`
}

func main() {
	brokers := flag.String("brokers", "127.0.0.1:9092", "HOST:PORT,…")
	app := flag.String("app", "", "the SdkAppid")
	tokenFile := flag.String("token-file", "", "what signs callbacks")
	prefix := flag.String("prefix", "tencent-chat", "what topics begin with")
	listen := flag.String("listen", "127.0.0.1:8080", "where callbacks come in")
	afterKafka := flag.Bool("after-kafka", false, "respond when Kafka has acknowledged")
	linger := flag.Duration("linger", -1, "how long a batch gathers; by default what -after-kafka does best with")
	flag.Parse()

	token, err := os.ReadFile(*tokenFile)
	if err != nil {
		log.Fatal(err)
	}
	if *linger < 0 {
		*linger = 5 * time.Millisecond
		if *afterKafka {
			*linger = 0
		}
	}
	kafka, err := kgo.NewClient(
		kgo.SeedBrokers(strings.Split(*brokers, ",")...),
		kgo.RequiredAcks(kgo.AllISRAcks()),
		kgo.ProducerBatchCompression(kgo.Lz4Compression()),
		kgo.ProducerLinger(*linger),
		kgo.MaxBufferedRecords(100_000),
	)
	if err != nil {
		log.Fatal(err)
	}
	b := &bridge{
		kafka:      kafka,
		app:        *app,
		token:      strings.TrimSpace(string(token)),
		topics:     map[string]string{afterSubscribe: *prefix + "." + afterSubscribe},
		afterKafka: *afterKafka,
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Handler: b, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 75 * time.Second}
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()
	go func() {
		<-stop.Done()
		drain, cancel := context.WithTimeout(context.Background(), drainDeadline)
		defer cancel()
		_ = server.Shutdown(drain)
		_ = kafka.Flush(drain)
		os.Exit(0)
	}()
	fmt.Printf("callbacks on http://%s\n", listener.Addr())
	log.Fatal(server.Serve(listener))
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.Method != http.MethodPost {
		refuse(w, http.StatusMethodNotAllowed, "POST only")
		return
	}
	query := r.URL.Query()
	if query.Get("SdkAppid") != b.app || !b.isSigned(query) {
		refuse(w, http.StatusForbidden, "not signed for this application")
		return
	}
	command := query.Get("CallbackCommand")
	topic, known := b.topics[command]
	if !known {
		refuse(w, http.StatusBadRequest, "unknown command")
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, bodyBytesMax))
	if err != nil {
		refuse(w, http.StatusRequestEntityTooLarge, "body too long or broken")
		return
	}
	var seen callback
	if err := json.Unmarshal(body, &seen); err != nil || seen.CallbackCommand != command {
		refuse(w, http.StatusBadRequest, "not JSON, or of another command")
		return
	}
	record := &kgo.Record{Topic: topic, Key: []byte(seen.OfficialAccount), Value: body}
	if !b.publish(record) {
		refuse(w, http.StatusServiceUnavailable, "Kafka is away")
		return
	}
	_, _ = io.WriteString(w, taken)
}

// publish says whether the callback may be answered with 200. A full buffer refuses at once; it does not block the handler.
func (b *bridge) publish(record *kgo.Record) bool {
	done := make(chan error, 1)
	b.kafka.TryProduce(context.Background(), record, func(_ *kgo.Record, err error) { done <- err })
	if !b.afterKafka {
		select {
		case err := <-done:
			return err == nil
		default:
			return true
		}
	}
	deadline := time.NewTimer(kafkaDeadline)
	defer deadline.Stop()
	select {
	case err := <-done:
		return err == nil
	case <-deadline.C:
		return false
	}
}

func (b *bridge) isSigned(query url.Values) bool {
	at, err := strconv.ParseInt(query.Get("RequestTime"), 10, 64)
	if err != nil || time.Since(time.Unix(at, 0)).Abs() > signatureAge {
		return false
	}
	sum := sha256.Sum256([]byte(b.token + query.Get("RequestTime")))
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(query.Get("Sign"))) == 1
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.WriteHeader(status)
	_, _ = fmt.Fprintf(w, refused, why)
}
