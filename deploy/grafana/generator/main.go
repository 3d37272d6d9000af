// Makes ../dashboard.json with Grafana's Foundation SDK, and checks it strictly: go run . >../dashboard.json
//
// With a file it only checks that: go run . ../dashboard.json
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/grafana/grafana-foundation-sdk/go/cog"
	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/common"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
	"github.com/grafana/grafana-foundation-sdk/go/prometheus"
	"github.com/grafana/grafana-foundation-sdk/go/timeseries"
)

// A line of a panel: its name in the legend, and the expression.
type line struct{ legend, expression string }

type panel struct {
	title, unit, description string
	lines                    []line
}

type row struct {
	title  string
	panels []panel
}

const selected = `job=~"$job", instance=~"$instance"`

// A gauge, each instance for itself.
func each(metric string) line {
	return line{"{{instance}}", fmt.Sprintf("%s{%s}", metric, selected)}
}

// A gauge or a counter, summed, by labels where there are any.
func sum(metric string, by ...string) line {
	return summed(fmt.Sprintf("%s{%s}", metric, selected), metric, by)
}

// A counter's rate a second, summed, by labels where there are any.
func rate(metric string, by ...string) line {
	return summed(fmt.Sprintf("rate(%s{%s}[$__rate_interval])", metric, selected), metric, by)
}

func summed(expression, metric string, by []string) line {
	if len(by) == 0 {
		return line{strings.TrimPrefix(metric, "callbridge_"), fmt.Sprintf("sum(%s)", expression)}
	}
	return line{"{{" + strings.Join(by, "}} {{") + "}}", fmt.Sprintf("sum by (%s) (%s)", strings.Join(by, ", "), expression)}
}

// A histogram's quantile over all instances.
func quantile(of float64, histogram string) line {
	expression := fmt.Sprintf("histogram_quantile(%v, sum by (le) (rate(%s_bucket{%s}[$__rate_interval])))", of, histogram, selected)
	return line{fmt.Sprintf("p%v", of*100), expression}
}

func quantiles(histogram string) []line {
	return []line{quantile(0.5, histogram), quantile(0.99, histogram), quantile(0.999, histogram)}
}

func one(lines ...line) []line { return lines }

var rows = []row{
	{"Callbacks", []panel{
		{"Received", "reqps", "Callbacks that name a command, by command. other: commands this version does not know.", one(rate("callbridge_callbacks_received_total", "command"))},
		{"Lost", "reqps", "Valid callbacks answered 503, by reason. Tencent does not repeat them by default. late: of those, the ones that Kafka took after all.", one(rate("callbridge_callbacks_lost_total", "reason"), rate("callbridge_callbacks_late_total"))},
		{"Refused", "reqps", "Callbacks refused because they were wrong, by reason.", one(rate("callbridge_callbacks_refused_total", "reason"))},
		{"Response time of after-callbacks", "s", "From the head of the request to the response. Tencent gives up after 2 s.", quantiles("callbridge_answer_after_duration_seconds")},
		{"Response time of before-callbacks", "s", "From the head of the request to the response. It depends on no disk and no broker.", quantiles("callbridge_answer_before_duration_seconds")},
		{"Decisions", "reqps", "Before-callbacks, by what was decided.", one(rate("callbridge_decisions_total", "outcome"))},
		{"Waiting", "short", "Callbacks that have not ended: in the request, in memory, or on disk.", one(sum("callbridge_callbacks_waiting", "where"))},
		{"Delivered and recovered", "reqps", "Callbacks whose every record Kafka has acknowledged; and those found in the journal at a start.", one(rate("callbridge_callbacks_delivered_total"), rate("callbridge_callbacks_recovered_total"))},
		{"Dead letters", "reqps", "Records delivered to the dead-letter topic, by reason; dropped: refused bodies for which the queue had no room.", one(rate("callbridge_rejected_total", "reason"), rate("callbridge_rejected_dropped_total"))},
	}},
	{"Journal", []panel{
		{"Fill", "bytes", "What undelivered callbacks hold, all files, and the quota. At 9/10 of the quota /readyz fails.", one(sum("callbridge_journal_held_bytes"), sum("callbridge_journal_files_bytes"), sum("callbridge_journal_quota_bytes"))},
		{"Full", "short", "1: there is no room for another file.", one(each("callbridge_journal_full"))},
		{"Undelivered captures", "short", "Callbacks on disk that Kafka has not acknowledged, and the segments that hold them.", one(sum("callbridge_journal_undelivered_captures"), sum("callbridge_journal_segments"))},
		{"Commit time", "s", "The write and the sync of one frame. From 0.2 s on the disk endangers the deadline.", quantiles("callbridge_journal_commit_duration_seconds")},
		{"Captures a commit", "short", "How many callbacks one sync makes durable.", one(quantile(0.5, "callbridge_journal_commit_captures"), quantile(0.99, "callbridge_journal_commit_captures"))},
		{"Compaction", "Bps", "Bytes copied and bytes made free, while a topic is stuck.", one(rate("callbridge_journal_compaction_copied_bytes_total"), rate("callbridge_journal_compaction_won_bytes_total"))},
		{"Undelivered bytes by topic", "bytes", "Topics that hold most of the journal.", one(line{"{{topic}}", fmt.Sprintf("topk(10, sum by (topic) (callbridge_journal_undelivered_bytes{%s}))", selected)})},
		{"Faults", "short", "Reads that failed, captures found damaged at the start, captures that this process cannot publish.", one(sum("callbridge_journal_read_errors_total"), sum("callbridge_journal_damaged_captures_total"), sum("callbridge_journal_held_total"))},
	}},
	{"Kafka", []panel{
		{"Records", "reqps", "Delivery reports, by outcome.", one(rate("callbridge_records_total", "outcome"))},
		{"Oldest record without a report", "s", "Grows while Kafka acknowledges nothing.", one(each("callbridge_oldest_unreported_seconds"))},
		{"Oldest undelivered callback by topic", "s", "A topic in trouble stands out.", one(line{"{{topic}}", fmt.Sprintf("topk(10, max by (topic) (callbridge_topic_oldest_undelivered_seconds{%s}))", selected)})},
		{"Delivery time", "s", "From handing a record to the client to its delivery report.", quantiles("callbridge_delivery_duration_seconds")},
		{"Queue time", "s", "From acknowledging or queueing a callback to the publisher taking it up.", quantiles("callbridge_queue_duration_seconds")},
		{"Normalising time", "s", "Making a record from a capture; one of sixteen is timed.", quantiles("callbridge_normalise_duration_seconds")},
		{"Client's queue", "short", "Records in librdkafka's queue, records without a report, events for the poll thread.", one(sum("callbridge_kafka_queue_records"), sum("callbridge_records_unreported"), sum("callbridge_kafka_reports_waiting"))},
		{"Client's queue in bytes", "bytes", "Values in librdkafka's queue.", one(sum("callbridge_kafka_queue_bytes"))},
		{"Brokers", "short", "Known brokers, and those to which a connection stands. A frozen broker keeps its connection.", one(sum("callbridge_kafka_brokers"), sum("callbridge_kafka_brokers_up"))},
		{"Round trip", "s", "The slowest broker's 99th percentile.", one(each("callbridge_kafka_round_trip_p99_seconds"))},
		{"Requests timed out and repeated", "short", "Since the producer's start.", one(sum("callbridge_kafka_request_timeouts"), sum("callbridge_kafka_request_retries"))},
		{"Producers replaced", "short", "After a fatal error, and by the watchdog, since the start.", one(sum("callbridge_kafka_producer_rebuilds_total"), sum("callbridge_kafka_watchdog_restarts_total"))},
	}},
	{"Connections", []panel{
		{"Open connections", "short", "On the callback listener.", one(each("callbridge_connections"))},
		{"Turned away", "reqps", "Refused at the cap, evicted at the cap, not accepted for want of descriptors, no HTTP.", one(rate("callbridge_connections_refused_total"), rate("callbridge_connections_evicted_total"), rate("callbridge_accept_errors_total"), rate("callbridge_not_http_total"))},
		{"Closed before HTTP", "reqps", "By reason: no PROXY header, a failed TLS handshake, a timeout, not a configured sender.", one(rate("callbridge_connections_unopened_total", "reason"))},
		{"Room for slow bodies", "bytes", "Set aside for bodies that did not arrive with their heads.", one(sum("callbridge_bodies_awaited_bytes"))},
		{"Probes", "reqps", "Requests that name no command.", one(rate("callbridge_probes_total"))},
	}},
	{"Files and process", []panel{
		{"Files that cannot be used", "short", "Blocklists, tokens, TLS. What they last held stays in force.", one(sum("callbridge_blocklist_files_failing"), sum("callbridge_token_files_failing"), sum("callbridge_tls_files_failing"))},
		{"Reloads and errors", "short", "Since the start.", one(sum("callbridge_blocklist_generation"), sum("callbridge_token_reloads_total"), sum("callbridge_tls_reloads_total"), sum("callbridge_blocklist_file_errors_total"), sum("callbridge_token_file_errors_total"), sum("callbridge_tls_file_errors_total"))},
		{"Blocklist rules", "short", "Those past their end included.", one(each("callbridge_blocklist_rules"))},
		{"Blocklist loaded", "dateTimeAsIso", "When the blocklist in force was loaded; 1970 without one.", one(line{"{{instance}}", fmt.Sprintf("1000 * callbridge_blocklist_loaded_timestamp_seconds{%s}", selected)})},
		{"Blocklist entries", "short", "Rules by kind and source.", one(sum("callbridge_blocklist_entries", "kind", "source"))},
		{"Blocklist memory", "bytes", "By source.", one(sum("callbridge_blocklist_bytes", "source"))},
		{"Blocklist topic state", "short", "How many processes are in which state. Stale: the rules last read stay in force.", one(sum("callbridge_blocklist_topic_state", "topic", "state"))},
		{"Blocklist topic age", "s", "Since Kafka last showed that no change is missing.", one(each("callbridge_blocklist_topic_age_seconds"))},
		{"Blocklist topic generation", "short", "The offset behind the last record applied; the same on every replica.", one(each("callbridge_blocklist_topic_generation"))},
		{"Blocklist topic trouble", "short", "Records that cannot be used, and reads from the start.", one(sum("callbridge_blocklist_topic_poison_records", "topic"), sum("callbridge_blocklist_topic_full_reads_total", "topic"))},
		{"Certificate ends", "dateTimeAsIso", "1970 without TLS.", one(line{"{{instance}}", fmt.Sprintf("1000 * callbridge_tls_certificate_expires_timestamp_seconds{%s}", selected)})},
		{"Log lines dropped", "reqps", "stderr is not read fast enough.", one(rate("callbridge_log_lines_dropped_total"))},
		{"Ready", "short", "1: /readyz answers 200; and how many processes are in which phase.", one(each("callbridge_ready"), sum("callbridge_phase", "phase"))},
		{"CPU", "short", "Cores in use.", one(line{"{{instance}}", fmt.Sprintf("rate(process_cpu_seconds_total{%s}[$__rate_interval])", selected)})},
		{"Memory", "bytes", "Resident.", one(each("process_resident_memory_bytes"))},
		{"File descriptors", "short", "Open, and the limit.", one(each("process_open_fds"), each("process_max_fds"))},
	}},
}

func source() common.DataSourceRef {
	return common.DataSourceRef{Type: cog.ToPtr("prometheus"), Uid: cog.ToPtr("${datasource}")}
}

func chosen(name, query string) *dashboard.QueryVariableBuilder {
	return dashboard.NewQueryVariableBuilder(name).
		Label(name).
		Datasource(source()).
		Query(dashboard.StringOrMap{String: cog.ToPtr(query)}).
		Refresh(dashboard.VariableRefreshOnTimeRangeChanged).
		Sort(dashboard.VariableSortAlphabeticalAsc).
		Multi(true).
		IncludeAll(true).
		AllValue(".+")
}

func drawn(panel panel) *timeseries.PanelBuilder {
	drawn := timeseries.NewPanelBuilder().
		Title(panel.title).
		Description(panel.description).
		Unit(panel.unit).
		Datasource(source()).
		Min(0).
		Span(8).
		Height(8).
		FillOpacity(8).
		ShowPoints(common.VisibilityModeNever)
	for index, line := range panel.lines {
		drawn.WithTarget(prometheus.NewDataqueryBuilder().
			RefId(string(rune('A' + index))).
			Datasource(source()).
			Range().
			Expr(line.expression).
			LegendFormat(line.legend))
	}
	return drawn
}

func main() {
	plugins.RegisterDefaultPlugins()
	if len(os.Args) > 1 {
		text, err := os.ReadFile(os.Args[1])
		fail(err)
		check(text)
		return
	}
	builder := dashboard.NewDashboardBuilder("callbridge").
		Description("Tencent Cloud Chat callbacks on their way to Kafka. Alert rules: deploy/prometheus; what to do: docs/runbooks.").
		Tags([]string{"callbridge"}).
		Editable().
		Tooltip(dashboard.DashboardCursorSyncCrosshair).
		Time("now-3h", "now").
		Refresh("30s").
		WithVariable(dashboard.NewDatasourceVariableBuilder("datasource").Label("datasource").Type("prometheus")).
		WithVariable(chosen("job", "label_values(callbridge_connections, job)")).
		WithVariable(chosen("instance", `label_values(callbridge_connections{job=~"$job"}, instance)`))
	for _, row := range rows {
		builder.WithRow(dashboard.NewRowBuilder(row.title))
		for _, panel := range row.panels {
			builder.WithPanel(drawn(panel))
		}
	}
	built, err := builder.Build()
	fail(err)
	text, err := json.MarshalIndent(built, "", "  ")
	fail(err)
	check(text)
	fmt.Println(string(text))
}

// Ends the program when the text has a field or an option that Grafana does not know, or lacks one that it needs.
func check(text []byte) {
	read := dashboard.Dashboard{}
	fail(read.UnmarshalJSONStrict(text))
	fail(read.Validate())
}

func fail(err error) {
	// UnmarshalJSONStrict returns an empty list of errors, and not nil, when there are none.
	found := cog.BuildErrors{}
	if errors.As(err, &found) && len(found) == 0 {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
