//! Builds metric families: names, help, labels, values.

use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram as Buckets, LabelPair, Metric, MetricFamily, MetricType,
};

use super::Histogram;

/// Labels of a sample: names and values.
pub(super) type Labels<'a> = &'a [(&'static str, &'a str)];

/// Families in the order they were added. One without a sample is left out, as the format has it.
#[derive(Debug, Default)]
pub(super) struct Families(Vec<MetricFamily>);

/// Samples of one family.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<Metric>);

impl Samples {
    pub(super) fn counter(&mut self, labels: Labels<'_>, value: f64) {
        let mut counter = Counter::default();
        counter.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_counter(counter);
        self.0.push(metric);
    }

    pub(super) fn gauge(&mut self, labels: Labels<'_>, value: f64) {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_gauge(gauge);
        self.0.push(metric);
    }

    pub(super) fn histogram(&mut self, labels: Labels<'_>, histogram: &Histogram) {
        let bucket = |(bound, count)| {
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            bucket
        };
        let mut buckets = Buckets::default();
        buckets.set_bucket(histogram.cumulative().map(bucket).collect());
        buckets.set_sample_count(histogram.count());
        buckets.set_sample_sum(histogram.sum());
        let mut metric = Metric::from_label(pairs(labels));
        metric.set_histogram(buckets);
        self.0.push(metric);
    }
}

impl Families {
    /// Adds a family of counters.
    pub(super) fn counters(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Samples)) {
        self.add(name, help, MetricType::COUNTER, fill);
    }

    /// Adds a family of gauges.
    pub(super) fn gauges(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Samples)) {
        self.add(name, help, MetricType::GAUGE, fill);
    }

    /// Adds a family of histograms.
    pub(super) fn histograms(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Samples)) {
        self.add(name, help, MetricType::HISTOGRAM, fill);
    }

    fn add(&mut self, name: &str, help: &str, kind: MetricType, fill: impl FnOnce(&mut Samples)) {
        let mut samples = Samples::default();
        fill(&mut samples);
        if samples.0.is_empty() {
            return;
        }
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        family.set_metric(samples.0);
        self.0.push(family);
    }

    pub(super) fn done(self) -> Vec<MetricFamily> {
        self.0
    }
}

fn pairs(labels: Labels<'_>) -> Vec<LabelPair> {
    let pair = |(name, value): &(&str, &str)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    };
    labels.iter().map(pair).collect()
}
