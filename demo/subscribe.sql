-- In boards: every topic becomes a table.
CREATE EXTENSION pg_kafka_sync;
CREATE SERVER kafka1 FOREIGN DATA WRAPPER kafka OPTIONS ("bootstrap.servers" :'bootstrap');
SELECT kafka.create_subscription('airlines', 'kafka1', '{ops.public.airlines}', 'airlines');
SELECT kafka.create_subscription('airports', 'kafka1', '{ops.public.airports}', 'airports');
SELECT kafka.create_subscription('planes', 'kafka1', '{ops.public.planes}', 'planes');
SELECT kafka.create_subscription('weather', 'kafka1', '{ops.public.weather}', 'weather');
SELECT kafka.create_subscription('flights', 'kafka1', '{ops.public.flights}', 'departures');
