/* payload_pool: values keep their bytes until they are released, and memory is used again. */
#include "produce/payload_pool.c"

#include <stdio.h>
#include <string.h>

#define VALUES 20000
#define UNDER_WAY 3000

int
main(void)
{
	static unsigned char *value[VALUES];
	static size_t size[VALUES];
	int			wrong = 0;
	int			chunks = 0;
	unsigned	random = 1;

	for (int i = 0; i < VALUES + UNDER_WAY; i++)
	{
		if (i < VALUES)
		{
			random = random * 1103515245u + 12345u;
			size[i] = i % 997 == 0 ? KS_PAYLOAD_LARGEST : 1 + (random >> 16) % 700;
			value[i] = ks_payload_take(size[i]);
			if (value[i] == NULL || (uintptr_t) value[i] % ALIGNMENT != 0)
				wrong++;
			memset(value[i], i & 255, size[i]);
		}
		if (i >= UNDER_WAY)
		{
			int			old = i - UNDER_WAY;

			for (size_t b = 0; b < size[old]; b++)
				if (value[old][b] != (old & 255))
				{
					wrong++;
					break;
				}
			ks_payload_release(value[old]);
		}
	}
	for (Chunk *c = unused; c; c = c->next)
	{
		chunks++;
		if (c->live != 0)
			wrong++;
	}
	printf("%s 1 - values keep their bytes\n", wrong ? "not ok" : "ok");
	/* about 1.3 MB were under way at a time */
	printf("%s 2 - %d chunks served %d values\n", chunks > 0 && chunks < 16 ? "ok" : "not ok", chunks, VALUES);
	/* a pool that is all in use says so, ignores what is not its own, and recovers */
	{
		int			n = 0;
		char		other;

		while (n < VALUES && (value[n] = ks_payload_take(KS_PAYLOAD_LARGEST)) != NULL)
			n++;
		ks_payload_release(&other);
		ks_payload_release(NULL);
		for (int i = 0; i < n; i++)
			ks_payload_release(value[i]);
		wrong += n < CHUNKS || n > CHUNKS * 4 || ks_payload_take(KS_PAYLOAD_LARGEST) == NULL;
		printf("%s 3 - %d values of the largest size fill it\n", wrong ? "not ok" : "ok", n);
	}
	free(region);
	printf("1..3\n");
	return wrong || chunks >= 16;
}
