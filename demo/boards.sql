-- Database boards, the read side: the same facts, keyed, typed and ordered for the questions asked here.

CREATE TABLE airlines (
    name         text NOT NULL,
    carrier      varchar(2) PRIMARY KEY
);

CREATE TABLE airports (
    faa          varchar(3) PRIMARY KEY,
    name         text NOT NULL,
    tzone        text,
    tz           integer NOT NULL,
    dst          text NOT NULL,
    alt          integer NOT NULL,
    lat          double precision NOT NULL,
    lon          double precision NOT NULL
);

CREATE TABLE planes (
    tailnum      text PRIMARY KEY,
    manufacturer text NOT NULL,
    model        text NOT NULL,
    year         integer,
    seats        integer NOT NULL,
    engines      integer NOT NULL,
    engine       text NOT NULL,
    type         text NOT NULL,
    speed        integer
);
CREATE INDEX ON planes (manufacturer, model);

-- By hour first: "what was the weather everywhere at ten".
CREATE TABLE weather (
    time_hour    timestamptz NOT NULL,
    origin       varchar(3) NOT NULL,
    temp         numeric(5,2),
    dewp         numeric(5,2),
    humid        numeric(5,2),
    precip       numeric(4,2) NOT NULL,
    pressure     numeric(5,1),
    visib        numeric(4,2) NOT NULL,
    wind_dir     integer,
    wind_speed   double precision,
    wind_gust    double precision,
    PRIMARY KEY (time_hour, origin)
);

-- The board in the hall: one range of the primary key is one airport's next departures. What every reader would
-- compute is computed once, by the table itself.
CREATE TABLE departures (
    origin       varchar(3) NOT NULL,
    sched_dep    timestamptz NOT NULL,
    carrier      varchar(2) NOT NULL,
    flight       integer NOT NULL,
    dest         varchar(3) NOT NULL,
    local_dep    timestamp GENERATED ALWAYS AS (sched_dep AT TIME ZONE 'America/New_York') STORED,
    status       text GENERATED ALWAYS AS (CASE WHEN arr IS NOT NULL THEN 'arrived'
                                                WHEN dep IS NOT NULL THEN 'departed'
                                                ELSE 'scheduled' END) STORED,
    dep          timestamptz,
    dep_delay    integer,
    sched_arr    time NOT NULL,
    arr          time,
    arr_delay    integer,
    air_time     integer,
    distance     integer NOT NULL,
    tailnum      text,
    PRIMARY KEY (origin, sched_dep, carrier, flight)
) WITH (fillfactor = 70);
CREATE INDEX ON departures (dest, sched_dep);
CREATE INDEX ON departures (tailnum, sched_dep);
