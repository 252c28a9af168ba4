/*
 * problems.h: which line of kafka.problems is about what, for a subscription's worker.
 */
#ifndef KS_CONSUME_PROBLEMS_H
#define KS_CONSUME_PROBLEMS_H

#define KS_PROBLEM_TRUNCATE 0
#define KS_PROBLEM_RETENTION 1
#define KS_PROBLEM_GONE 2
#define KS_PROBLEM_LATE 3
#define KS_PROBLEM_CONFLICT 4

#endif							/* KS_CONSUME_PROBLEMS_H */
