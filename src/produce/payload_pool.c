/*
 * payload_pool.c: chunks that are filled from front to back and used again when nothing in them is in use any more.
 *
 * A chunk is aligned to its size, so that the address of a value tells its chunk.  Acknowledgements come nearly in the
 * order of sending: few chunks are in use at a time.  A partition that is not acknowledged pins the chunks its values are
 * in, so the pool has an upper bound of its own.
 */
#include "produce/payload_pool.h"

#include <stdint.h>
#include <stdlib.h>

#define CHUNK_SIZE ((uintptr_t) (256 * 1024))
#define CHUNKS 64				/* 16 MB of address space; touched only as far as it is needed */
#define ALIGNMENT 8

typedef struct Chunk
{
	size_t		used;			/* bytes, from the front */
	size_t		live;			/* values in use */
	struct Chunk *next;			/* in the list of free ones */
} Chunk;

#define CHUNK_HEADER ((sizeof(Chunk) + ALIGNMENT - 1) & ~(size_t) (ALIGNMENT - 1))

static char *region;			/* all chunks */
static size_t made;				/* chunks of the region that were ever used */
static Chunk *current;			/* is being filled, NULL = none */
static Chunk *unused;			/* list of chunks without a value in use */

/* Makes a chunk with room the current one. False when all are in use. */
static int
next_chunk(void)
{
	if (current != NULL && current->live == 0)
	{
		current->used = CHUNK_HEADER;
		return 1;
	}
	/* the former one comes back with its last value */
	current = unused;
	if (current != NULL)
		unused = current->next;
	else
	{
		void	   *memory;

		if (region == NULL && posix_memalign(&memory, CHUNK_SIZE, CHUNKS * CHUNK_SIZE) == 0)
			region = memory;
		if (region == NULL || made == CHUNKS)
			return 0;
		current = (Chunk *) (region + made++ * CHUNK_SIZE);
	}
	current->used = CHUNK_HEADER;
	current->live = 0;
	return 1;
}

void *
ks_payload_take(size_t size)
{
	size_t		rounded = (size + ALIGNMENT - 1) & ~(size_t) (ALIGNMENT - 1);
	void	   *result;

	if ((current == NULL || current->used + rounded > CHUNK_SIZE) && !next_chunk())
		return NULL;
	result = (char *) current + current->used;
	current->used += rounded;
	current->live++;
	return result;
}

void
ks_payload_release(const void *payload)
{
	Chunk	   *chunk = (Chunk *) ((uintptr_t) payload & ~(CHUNK_SIZE - 1));

	if (region == NULL || (const char *) payload < region || (const char *) payload >= region + CHUNKS * CHUNK_SIZE)
		return;
	if (--chunk->live > 0 || chunk == current)
		return;
	chunk->next = unused;
	unused = chunk;
}
