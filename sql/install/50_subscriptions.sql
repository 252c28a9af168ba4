-- Subscriptions: topics to tables.

CREATE FUNCTION kafka.create_subscription(name name, server name, topics text[], target regclass DEFAULT NULL,
        format text DEFAULT 'debezium', mode text DEFAULT 'upsert', key text[] DEFAULT NULL,
        start text DEFAULT 'earliest', on_error text DEFAULT 'stop', workers integer DEFAULT 1,
        options jsonb DEFAULT '{}', enabled boolean DEFAULT true) RETURNS void
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'ks_create_subscription';
COMMENT ON FUNCTION kafka.create_subscription(name, name, text[], regclass, text, text, text[], text, text, integer, jsonb, boolean) IS
    'Keeps a target table equal to the latest state of topics (an entry that begins with ^ is a pattern), exactly once. format: debezium | json | csv | syslog | raw. target NULL: kafka.add_target gives it one, or with option create_target its worker makes one. mode: upsert | append (merge: kafka.add_target). key: columns of a unique index of the target (NULL: its primary key; none for append). start: earliest | latest | a timestamp | {"topic":{"0":123}}; resolved and stored before the call returns. on_error: stop. options: see kafka.option_reference(). Needs USAGE on the server and SET ROLE to the target''s owner. Errors: undefined_object, duplicate_object, invalid_parameter_value, insufficient_privilege, wrong_object_type, object_not_in_prerequisite_state (no key), connection errors within 10 s.';

CREATE FUNCTION kafka.alter_subscription(name name, options jsonb) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_alter_subscription';
COMMENT ON FUNCTION kafka.alter_subscription(name, jsonb) IS
    'Merges options into those of a subscription; JSON null resets one; also takes "topics" (array of strings) and "server". A subscription in state error is tried again at once.';

CREATE FUNCTION kafka.drop_subscription(name name, if_exists boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_drop_subscription';
COMMENT ON FUNCTION kafka.drop_subscription(name, boolean) IS
    'Drops a subscription and its offsets. Its targets keep their rows. Needs no broker.';

CREATE FUNCTION kafka.pause_subscription(name name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_pause_subscription';
COMMENT ON FUNCTION kafka.pause_subscription(name) IS 'Stops a subscription durably; its offsets stay.';

CREATE FUNCTION kafka.resume_subscription(name name) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_resume_subscription';
COMMENT ON FUNCTION kafka.resume_subscription(name) IS
    'Starts a paused subscription where it stopped, or tries one in state error at once.';

CREATE FUNCTION kafka.seek_subscription(name name, start text, force boolean DEFAULT false) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_seek_subscription';
COMMENT ON FUNCTION kafka.seek_subscription(name, text, boolean) IS
    'Sets where a subscription reads next: earliest | latest | a timestamp | {"topic":{"0":123}} (moves only the partitions it names). earliest is refused where a partition has lost its beginning, unless force.';

CREATE FUNCTION kafka.wait_for_subscription(name name, timeout interval DEFAULT '30s') RETURNS boolean
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_wait_for_subscription';
COMMENT ON FUNCTION kafka.wait_for_subscription(name, interval) IS
    'Waits until a subscription has applied everything up to the last stable offsets as they were at the call: true; false on timeout. Interruptible. undefined_object for an unknown subscription.';

CREATE FUNCTION kafka.set_owner(kind text, name text, owner regrole) RETURNS void
    LANGUAGE c VOLATILE SET search_path = pg_catalog, pg_temp
    AS 'MODULE_PATHNAME', 'ks_set_owner';
COMMENT ON FUNCTION kafka.set_owner(text, text, regrole) IS
    'Gives a publisher or subscription (kind) to another role, which needs what creating it needs; the caller must own it and be able to SET ROLE to the new owner.';
