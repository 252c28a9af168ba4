-- Database ops, the source of truth: normalised, constrained, written to by the replay and nobody else.

CREATE TABLE airlines (
    carrier      text PRIMARY KEY,
    name         text NOT NULL
);

CREATE TABLE airports (
    faa          text PRIMARY KEY,
    name         text NOT NULL,
    lat          double precision NOT NULL,
    lon          double precision NOT NULL,
    alt          integer NOT NULL,               -- feet
    tz           smallint NOT NULL,              -- hours from UTC
    dst          text NOT NULL,
    tzone        text
);

CREATE TABLE planes (
    tailnum      text PRIMARY KEY,
    year         smallint,
    type         text NOT NULL,
    manufacturer text NOT NULL,
    model        text NOT NULL,
    engines      smallint NOT NULL,
    seats        smallint NOT NULL,
    speed        smallint,                       -- miles per hour
    engine       text NOT NULL
);

CREATE TABLE weather (
    origin       text NOT NULL REFERENCES airports,
    time_hour    timestamptz NOT NULL,
    temp         numeric(5,2),                   -- degrees Fahrenheit
    dewp         numeric(5,2),
    humid        numeric(5,2),                   -- percent
    wind_dir     smallint,                       -- degrees
    wind_speed   double precision,               -- miles per hour
    wind_gust    double precision,
    precip       numeric(4,2) NOT NULL,          -- inches
    pressure     numeric(5,1),                   -- millibars
    visib        numeric(4,2) NOT NULL,          -- miles
    PRIMARY KEY (origin, time_hour)
);

-- tailnum and dest have no foreign key: 722 tail numbers and 4 destinations are missing from the reference data.
CREATE TABLE flights (
    carrier      text NOT NULL REFERENCES airlines,
    flight       integer NOT NULL,
    origin       text NOT NULL REFERENCES airports,
    sched_dep    timestamptz NOT NULL,
    dest         text NOT NULL,
    tailnum      text,
    distance     smallint NOT NULL,              -- miles
    sched_arr    time NOT NULL,                  -- local time at the destination
    dep          timestamptz,                    -- known from the departure on
    dep_delay    smallint,                       -- minutes
    arr          time,                           -- known from the arrival on
    arr_delay    smallint,
    air_time     smallint,
    PRIMARY KEY (carrier, flight, origin, sched_dep)
) WITH (fillfactor = 70);                        -- each row is updated twice: leave room for it on its page
