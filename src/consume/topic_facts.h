/*
 * topic_facts.h: what the cluster says about topics beyond their partitions: identity and retention; and single records.
 * Asked on a thread of their own (ks_client_call), with malloc'ed questions and answers.
 */
#ifndef KS_TOPIC_FACTS_H
#define KS_TOPIC_FACTS_H

#include "consume/offsets.h"
#include "kafka/client.h"

typedef struct KsTopicFact
{
	char	   *topic;
	char		id[KS_TOPIC_ID_SIZE];	/* "" = not known */
	bool		config_known;	/* false: not ours to see */
	bool		compact;		/* cleanup.policy */
	int64_t		delete_retention_ms;
} KsTopicFact;

typedef struct KsTopicFacts
{
	int			count;
	KsTopicFact *facts;
	bool		want_ids;
	bool		want_configs;
	rd_kafka_resp_err_t err;
} KsTopicFacts;

/* Does librdkafka tell topics' ids (2.3 and later)? */
extern bool ks_topic_ids_known(void);
/* Room for questions about up to "count" topics, NULL if there is no memory. */
extern KsTopicFacts *ks_topic_facts_create(int count);
/* Adds a topic, once. False: no memory. */
extern bool ks_topic_facts_add(KsTopicFacts *facts, const char *topic);
/* NULL if it was not asked for. */
extern const KsTopicFact *ks_topic_facts_find(const KsTopicFacts *facts, const char *topic);
/* For ks_client_call. */
extern void ks_topic_facts_run(rd_kafka_t *rk, void *facts);
extern void ks_topic_facts_free(void *facts);

/* One record of a partition, as it is in the log now, or (then offset is the answer, nothing else) the log's end. */
typedef struct KsRecordAsk
{
	char	   *topic;
	int32_t		partition;
	int64_t		offset;
	bool		answered;		/* the log was looked at */
	bool		found;			/* and the rest is known; not where the record is not there any more */
	int64_t		timestamp_ms;
	void	   *key;
	size_t		key_size;
	void	   *value;
	size_t		value_size;
} KsRecordAsk;

/* Questions about records that nobody waits for: asked by ks_client_start, they are the asker's again when they are "done". */
typedef struct KsRecordAsks
{
	int			count;
	KsRecordAsk *asks;
	int			done;			/* atomic */
	int			cancelled;		/* atomic: the answers are of no use any more */
} KsRecordAsks;

/* Room for questions about up to "count" records, NULL if there is no memory. */
extern KsRecordAsks *ks_record_asks_create(int count);
/* False: no memory. */
extern bool ks_record_asks_add(KsRecordAsks *asks, const char *topic, int32_t partition, int64_t offset);
extern void ks_record_asks_free(KsRecordAsks *asks);
/* For ks_client_start. */
extern void ks_record_asks_run(rd_kafka_t *rk, void *asks);
extern void ks_record_asks_run_ends(rd_kafka_t *rk, void *asks);
extern void ks_record_asks_release(void *asks);
/* Are they answered? */
extern bool ks_record_asks_done(const KsRecordAsks *asks);

#endif							/* KS_TOPIC_FACTS_H */
