-- Status: readable by everyone, each row by its owner and by pg_monitor.

CREATE FUNCTION kafka.worker_status(OUT kind text, OUT id bigint, OUT state text, OUT detail text, OUT pid integer,
        OUT rows bigint, OUT bytes bigint, OUT acked_lsn pg_lsn, OUT confirmed_lsn pg_lsn, OUT read_lsn pg_lsn,
        OUT last_commit_time timestamptz, OUT lag_messages bigint, OUT skipped_truncates bigint, OUT restarts bigint,
        OUT last_error text, OUT last_error_at timestamptz, OUT started_at timestamptz, OUT problems text[],
        OUT loops bigint, OUT fetched_at timestamptz, OUT next_start timestamptz, OUT ordinal integer, OUT columns_added bigint,
        OUT conflicts_applied bigint, OUT conflicts_kept bigint, OUT conflict_ties bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_worker_status';
COMMENT ON FUNCTION kafka.worker_status() IS
    'Shared-memory state of this database''s workers that the caller may see; the status views are made of it. LSNs as pg_lsn, bytes in bytes, loops = passes of the main loop, ordinal = number among the workers of a subscription, from 0; columns_added: by option "evolve".';

CREATE FUNCTION kafka.partition_status(OUT subscription_id bigint, OUT topic text, OUT partition integer,
        OUT next_offset bigint, OUT high_watermark bigint, OUT last_stable_offset bigint) RETURNS SETOF record
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_partition_status';
COMMENT ON FUNCTION kafka.partition_status() IS
    'Log ends of partitions as the subscriptions of this database last saw them.';

CREATE FUNCTION kafka.launcher_message() RETURNS text
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_launcher_message';
COMMENT ON FUNCTION kafka.launcher_message() IS
    'Why no worker can be started on this server now (not preloaded, standby, disabled, max_worker_processes full), or NULL.';

CREATE FUNCTION kafka.option_reference(OUT kind text, OUT option text, OUT type text, OUT default_value text, OUT allowed text,
        OUT description text) RETURNS SETOF record
    LANGUAGE c IMMUTABLE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_option_reference';
COMMENT ON FUNCTION kafka.option_reference() IS
    'The keys of the options jsonb of publishers, subscriptions and targets, with type, default and what is allowed.';

CREATE VIEW kafka.publisher_status WITH (security_barrier) AS
SELECT p.name,
       p.owner,
       coalesce(w.state, CASE WHEN p.enabled THEN 'waiting' ELSE 'paused' END) AS state,
       coalesce(w.detail, CASE WHEN w.id IS NULL OR (w.pid IS NULL AND kafka.launcher_message() NOT LIKE 'no room%')
                               THEN kafka.launcher_message() END) AS detail,
       w.pid,
       p.server,
       p.publication,
       p.format,
       p.snapshot,
       p.snapshot_state,
       CASE WHEN p.snapshot_floor <> 0 THEN p.slot_name END AS slot_name,
       coalesce(w.confirmed_lsn, s.confirmed_flush_lsn) AS confirmed_lsn,
       w.acked_lsn,
       CASE WHEN pg_is_in_recovery() OR coalesce(w.acked_lsn, w.confirmed_lsn, s.confirmed_flush_lsn) IS NULL THEN NULL
            ELSE greatest(pg_current_wal_flush_lsn() - coalesce(w.acked_lsn, w.confirmed_lsn, s.confirmed_flush_lsn), 0)
       END::bigint AS lag_bytes,
       CASE WHEN pg_is_in_recovery() THEN NULL
            WHEN w.acked_lsn >= pg_current_wal_flush_lsn() THEN interval '0'
            ELSE clock_timestamp() - w.last_commit_time END AS lag_time,
       coalesce(w.rows, 0) AS rows,
       coalesce(w.bytes, 0) AS bytes,
       coalesce(w.skipped_truncates, 0) AS skipped_truncates,
       w.last_commit_time,
       w.last_error,
       w.last_error_at,
       coalesce(w.restarts, 0) AS restarts,
       w.started_at
  FROM kafka.publisher p
  LEFT JOIN kafka.worker_status() w ON w.kind = 'publisher' AND w.id = p.id
  LEFT JOIN pg_replication_slots s ON s.slot_name = p.slot_name
 WHERE pg_has_role(p.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW kafka.publisher_status IS
    'One row per publisher. state: starting | waiting | snapshot | streaming | paused | retrying | error | finished; detail says what it waits for; lag_bytes is WAL not yet acknowledged by Kafka; rows and bytes count events sent since the server started.';

CREATE VIEW kafka.publisher_tables WITH (security_barrier) AS
SELECT p.name AS publisher,
       format('%I.%I', t.schemaname, t.tablename)::regclass AS relation,
       coalesce(r.topic, regexp_replace(p.topic_prefix || '.' || t.schemaname || '.' || t.tablename,
                                        '[^A-Za-z0-9._-]', '_', 'g')) AS topic,
       r.key,
       pt.partitions,
       s.state AS snapshot_state,
       s.rows AS snapshot_rows
  FROM kafka.publisher p
  JOIN pg_publication_tables t ON t.pubname = p.publication
   AND t.schemaname <> 'kafka'
  LEFT JOIN kafka.publisher_relation r
         ON r.publisher_id = p.id AND r.relation = format('%I.%I', t.schemaname, t.tablename)::regclass
  LEFT JOIN kafka.publisher_topic pt
         ON pt.publisher_id = p.id
        AND pt.topic = coalesce(r.topic, regexp_replace(p.topic_prefix || '.' || t.schemaname || '.' || t.tablename,
                                                        '[^A-Za-z0-9._-]', '_', 'g'))
  LEFT JOIN kafka.publisher_snapshot s
         ON s.publisher_id = p.id AND s.relation = format('%I.%I', t.schemaname, t.tablename)::regclass
 WHERE pg_has_role(p.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW kafka.publisher_tables IS
    'Tables that each publisher publishes now: topic, message key set with kafka.set_topic (NULL: primary key or replica identity), the partition count that keys are hashed over, and how far the initial snapshot is.';

CREATE VIEW kafka.subscription_status WITH (security_barrier) AS
SELECT s.name,
       s.owner,
       w.state,
       w.detail,
       w.pid,
       s.server,
       s.topics,
       s.format,
       (SELECT array_agg(t.target ORDER BY t.target) FROM kafka.subscription_target t WHERE t.subscription_id = s.id) AS targets,
       w.lag,
       w.lag_time,
       w.rows,
       w.bytes,
       w.last_commit_time,
       w.last_error,
       w.last_error_at,
       w.restarts,
       w.started_at,
       s.workers,
       w.pids,
       (SELECT count(*) FROM kafka.dead_letter d WHERE d.subscription_id = s.id) AS dead_letters,
       (SELECT sum(r.next_offset - r.start_offset)
          FROM kafka.rebuild_position r WHERE r.subscription_id = s.id)::bigint AS rebuild_done,
       (SELECT sum(greatest(r.end_offset, r.next_offset) - r.start_offset)
          FROM kafka.rebuild_position r WHERE r.subscription_id = s.id)::bigint AS rebuild_total,
       w.columns_added,
       w.conflicts_applied,
       w.conflicts_kept,
       w.conflict_ties
  FROM kafka.subscription s
 CROSS JOIN LATERAL (
        -- one row per worker that it should have; "x" may be missing, as long as the launcher has not come to it
        SELECT (array_agg(y.state ORDER BY y.badness, y.ordinal))[1] AS state,
               (array_agg(y.detail ORDER BY y.badness, y.detail IS NULL, y.ordinal))[1] AS detail,
               max(y.pid) FILTER (WHERE y.ordinal = 0) AS pid,
               CASE WHEN count(*) = count(y.lag_messages) THEN sum(y.lag_messages)::bigint END AS lag,
               CASE WHEN bool_and(y.lag_messages = 0) THEN interval '0'
                    ELSE max(clock_timestamp() - y.last_commit_time) FILTER (WHERE y.lag_messages IS DISTINCT FROM 0)
               END AS lag_time,
               coalesce(sum(y.rows), 0)::bigint AS rows,
               coalesce(sum(y.bytes), 0)::bigint AS bytes,
               max(y.last_commit_time) AS last_commit_time,
               (array_agg(y.last_error ORDER BY y.last_error_at DESC) FILTER (WHERE y.last_error IS NOT NULL))[1] AS last_error,
               max(y.last_error_at) AS last_error_at,
               coalesce(sum(y.restarts), 0)::bigint AS restarts,
               coalesce(sum(y.columns_added), 0)::bigint AS columns_added,
               coalesce(sum(y.conflicts_applied), 0)::bigint AS conflicts_applied,
               coalesce(sum(y.conflicts_kept), 0)::bigint AS conflicts_kept,
               coalesce(sum(y.conflict_ties), 0)::bigint AS conflict_ties,
               max(y.started_at) FILTER (WHERE y.ordinal = 0) AS started_at,
               coalesce(array_agg(y.pid ORDER BY y.ordinal) FILTER (WHERE y.pid IS NOT NULL), '{}') AS pids
          FROM (SELECT x.*, o.ordinal,
                       array_position('{error,retrying,waiting,starting,rebuilding,snapshot,streaming,finished,paused}'::text[],
                                      x.state) AS badness
                  FROM generate_series(0, s.workers - 1) o(ordinal)
                 CROSS JOIN LATERAL (
                        SELECT coalesce(v.state, CASE WHEN s.enabled THEN 'waiting' ELSE 'paused' END) AS state,
                               coalesce(v.detail, CASE WHEN v.id IS NULL OR
                                                       (v.pid IS NULL AND kafka.launcher_message() NOT LIKE 'no room%')
                                                       THEN kafka.launcher_message() END) AS detail,
                               v.pid, v.lag_messages, v.last_commit_time, v.rows, v.bytes, v.last_error, v.last_error_at,
                               v.restarts, v.started_at, v.columns_added,
                               v.conflicts_applied, v.conflicts_kept, v.conflict_ties
                          FROM (SELECT) one
                          LEFT JOIN kafka.worker_status() v
                            ON v.kind = 'subscription' AND v.id = s.id AND v.ordinal = o.ordinal) x) y
       ) w
 WHERE pg_has_role(s.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW kafka.subscription_status IS
    'One row per subscription. state: starting | waiting | streaming | rebuilding | paused | retrying | error, the worst of its workers; lag is in messages, up to the last stable offsets; rows and bytes count messages applied since the server started; pid is that of the first worker, pids are those of all; dead_letters are the rows of kafka.dead_letter; rebuild_done of rebuild_total messages are read again, NULL when none are; columns_added by option "evolve"; conflicts_applied, conflicts_kept, conflict_ties count what option "conflict" decided since the server started.';

CREATE VIEW kafka.subscription_targets WITH (security_barrier) AS
SELECT s.name AS subscription,
       t.target,
       t.mode,
       t.key,
       t.query,
       t.merge,
       t.options,
       t.view
  FROM kafka.subscription s
  JOIN kafka.subscription_target t ON t.subscription_id = s.id
 WHERE pg_has_role(s.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW kafka.subscription_targets IS
    'Target tables of each subscription: mode, key columns, query as it was given, merge functions, options, and the view in schema kafka that holds the query as it was bound (NULL: the target takes rows as they come).';

CREATE VIEW kafka.subscription_offsets WITH (security_barrier) AS
SELECT s.name AS subscription,
       p.topic,
       p.partition,
       p.next_offset,
       e.high_watermark,
       e.last_stable_offset,
       CASE WHEN e.last_stable_offset IS NOT NULL THEN greatest(e.last_stable_offset - p.next_offset, 0) END AS lag,
       p.applied_at
  FROM kafka.subscription s
  JOIN kafka.subscription_position p ON p.subscription_id = s.id
  LEFT JOIN kafka.partition_status() e
         ON e.subscription_id = s.id AND e.topic = p.topic AND e.partition = p.partition
 WHERE pg_has_role(s.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE');
COMMENT ON VIEW kafka.subscription_offsets IS
    'Next offset of each partition of each subscription, as committed with the rows, and the log ends as the worker last saw them (NULL: not yet).';

CREATE VIEW kafka.problems WITH (security_barrier) AS
SELECT DISTINCT o.kind, o.name, x.problem
  FROM (SELECT 'publisher' AS kind, id, name, owner, enabled, 0 AS ordinal FROM kafka.publisher
        UNION ALL
        SELECT 'subscription', id, name, owner, enabled, generate_series(0, workers - 1) FROM kafka.subscription) o
  LEFT JOIN kafka.worker_status() w ON w.kind = o.kind AND w.id = o.id AND w.ordinal = o.ordinal
 CROSS JOIN LATERAL (
        SELECT 'state ' || w.state || ': ' || w.last_error AS problem WHERE w.state = 'error'
        UNION ALL
        SELECT unnest(w.problems)
        UNION ALL
        SELECT w.skipped_truncates || ' TRUNCATE not published (option "truncate": "skip")'
         WHERE w.skipped_truncates > 0 AND w.kind = 'publisher'
        UNION ALL
        SELECT count(*) || CASE WHEN count(*) = 1 THEN ' dead letter' ELSE ' dead letters' END ||
               CASE WHEN bool_or(d.superseded) THEN ', ' || count(*) FILTER (WHERE d.superseded) || ' of them superseded' ELSE '' END
          FROM kafka.dead_letter d WHERE o.kind = 'subscription' AND d.subscription_id = o.id
        HAVING count(*) > 0
        UNION ALL
        SELECT 'state ' || w.state || ': ' || w.detail WHERE w.state IN ('waiting', 'retrying') AND w.detail IS NOT NULL
        UNION ALL
        SELECT kafka.launcher_message()
         WHERE o.enabled AND w.pid IS NULL AND w.detail IS NULL
           AND (w.id IS NULL OR kafka.launcher_message() NOT LIKE 'no room%')
       ) x
 WHERE x.problem IS NOT NULL
   AND (pg_has_role(o.owner::oid, 'USAGE') OR pg_has_role('pg_monitor', 'USAGE'));
COMMENT ON VIEW kafka.problems IS 'One line per thing that needs a person; empty when all is well.';

GRANT USAGE ON SCHEMA kafka TO PUBLIC;
GRANT SELECT ON kafka.publisher_status, kafka.publisher_tables, kafka.subscription_status, kafka.subscription_targets,
    kafka.subscription_offsets, kafka.problems TO PUBLIC;
