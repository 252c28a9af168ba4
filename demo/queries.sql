\echo The departures board of JFK at noon on 8 February 2013, before the snowstorm: one range of the primary key
SELECT to_char(local_dep, 'HH24:MI') AS departs, carrier || flight AS flight, coalesce(p.name, dest) AS "to",
       status, dep_delay AS late, w.temp, w.visib
  FROM departures d
  LEFT JOIN airports p ON p.faa = d.dest
  LEFT JOIN weather w ON w.time_hour = date_trunc('hour', d.sched_dep) AND w.origin = d.origin
 WHERE d.origin = 'JFK' AND sched_dep >= '2013-02-08 12:00-05'
 ORDER BY sched_dep, carrier, flight
 LIMIT 12;

\echo Who is late: delay on departure by airline
SELECT a.name AS airline, count(*) AS flights, round(avg(dep_delay), 1) AS "minutes late",
       round(100.0 * count(*) FILTER (WHERE dep_delay > 60) / count(*), 1) AS "% over an hour"
  FROM departures JOIN airlines a USING (carrier)
 GROUP BY a.name
 ORDER BY 3 DESC;

\echo The first trips of the plane that flew most: an index on (tailnum, sched_dep)
SELECT to_char(d.local_dep, 'DD Mon HH24:MI') AS departs, d.carrier || d.flight AS flight, d.origin, d.dest, d.arr_delay,
       p.manufacturer, p.model, p.year
  FROM departures d JOIN planes p USING (tailnum)
 WHERE tailnum = (SELECT tailnum FROM departures JOIN planes USING (tailnum) GROUP BY tailnum ORDER BY count(*) DESC LIMIT 1)
 ORDER BY d.sched_dep
 LIMIT 8;

\echo How far each subscription is
SELECT name, state, rows AS events, lag, lag_time FROM kafka.subscription_status ORDER BY name;
