# pg_kafka_sync
#
#   make, make install, make installcheck    as for any PGXS extension; PG_CONFIG names the PostgreSQL
#   make demo, demo-stop, test, test-versions, bench, bench-peers
#                                             each alone on a fresh Debian machine: installs what is missing, builds, runs

EXTENSION = pg_kafka_sync
MODULE_big = pg_kafka_sync
# The install script is put together from one file per subject; upgrade scripts are written by hand.
INSTALL_SQL = $(srcdir)/sql/pg_kafka_sync--1.0.sql
INSTALL_SQL_PARTS = $(sort $(wildcard $(srcdir)/sql/install/*.sql))
DATA = $(sort $(INSTALL_SQL) $(wildcard $(srcdir)/sql/pg_kafka_sync--*.sql))

SOURCES = $(patsubst $(srcdir)/%,%,$(sort $(wildcard $(srcdir)/src/*.c $(srcdir)/src/*/*.c)))
KS_HEADERS = $(sort $(wildcard $(srcdir)/src/*.h $(srcdir)/src/*/*.h))
OBJS = $(SOURCES:.c=.o)

PG_CPPFLAGS = -I$(srcdir)/src -I$(libpq_srcdir)
# What PostgreSQL's own headers and macros would set off is left out.
PG_CFLAGS = -Wall -Wextra -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
	-Wno-cast-function-type -Wno-declaration-after-statement
SHLIB_LINK = -lrdkafka $(libpq) -lm

# Regression tests: every sql/NAME.sql with expected/NAME.out, by name; REGRESS="a b" runs some.
# They reach Kafka through the environment: \getenv kafka KAFKA_BOOTSTRAP
REGRESS = $(patsubst $(srcdir)/sql/%.sql,%,$(filter-out $(srcdir)/sql/pg_kafka_sync--%,$(sort $(wildcard $(srcdir)/sql/*.sql))))
REGRESS_OUT = output_regress
REGRESS_OPTS = --outputdir=$(REGRESS_OUT) --load-extension=pg_kafka_sync
ISOLATION = $(patsubst $(srcdir)/test/specs/%.spec,%,$(sort $(wildcard $(srcdir)/test/specs/*.spec)))
ISOLATION_OPTS = --inputdir=$(srcdir)/test --load-extension=pg_kafka_sync

EXTRA_CLEAN = .build-flags $(REGRESS_OUT) output_iso

# Bitcode is of no use to functions that talk to a broker, and wants the very clang PostgreSQL was built with.
ifeq ($(origin with_llvm),undefined)
override with_llvm = no
endif

PG_CONFIG ?= pg_config
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)

ifneq ($(wildcard $(PGXS)),)
include $(PGXS)

ifneq ($(INSTALL_SQL_PARTS),)
all: $(INSTALL_SQL)
$(INSTALL_SQL): $(INSTALL_SQL_PARTS)
	cat $^ >$@.new && mv $@.new $@
EXTRA_CLEAN += $(INSTALL_SQL)
endif

# Every object depends on every header, and on the compiler, its flags and the PostgreSQL it was built for: small
# enough a tree to be safe rather than clever.
$(OBJS): $(KS_HEADERS) .build-flags
build_flags := $(strip $(shell $(CC) --version 2>/dev/null | head -n 1) $(VERSION) $(includedir_server) \
	$(CPPFLAGS) $(filter-out -Werror,$(CFLAGS)) $(CFLAGS_SL))
ifneq ($(build_flags),$(file <.build-flags))
.PHONY: .build-flags
endif
.build-flags:
	$(file >$@,$(build_flags))@:
else
srcdir = .
all install installcheck uninstall clean:
	@echo "No PGXS found by '$(PG_CONFIG)'. test/support/deps.sh installs it on Debian; else set PG_CONFIG." >&2; exit 1
endif

# The scripts install, build and say what they do. They look up PostgreSQL themselves unless PG_CONFIG was given.
ifneq ($(filter command line environment,$(origin PG_CONFIG)),)
export PG_CONFIG
endif

demo: ; @$(srcdir)/test/support/deps.sh demo && $(srcdir)/test/support/build.sh && $(srcdir)/demo/run.sh
demo-stop: ; @$(srcdir)/demo/stop.sh
test: ; @$(srcdir)/test/run
test-versions: ; @$(srcdir)/test/support/deps.sh && $(srcdir)/test/support/versions.sh
bench: ; @$(srcdir)/test/support/deps.sh && $(srcdir)/test/support/build.sh && $(srcdir)/bench/run.sh
bench-peers: ; @$(srcdir)/test/support/deps.sh && $(srcdir)/test/support/build.sh && $(srcdir)/bench/run.sh --peers
.PHONY: demo demo-stop test test-versions bench bench-peers
