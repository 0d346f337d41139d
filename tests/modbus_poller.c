/* A PLC of libmodbus that is a client: modbus_poller PORT START ROUNDS polls 100 words from START on at 127.0.0.1.
 *
 * Each round reads the words, which must all be the same, and writes that word to word 0. At the end it writes the
 * words 1, 2, 3 to word 0 and reads them back in one request (function 23), then tries to write to START. It prints
 * how many different words it saw, and the error of that last write. */
#include <errno.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = 100 };

static int fail(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, modbus_strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    modbus_t *plc = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    if (plc == NULL || modbus_set_response_timeout(plc, 30, 0) < 0 || modbus_connect(plc) < 0)
        return fail("connect");
    int start = atoi(argv[2]), changes = 0, rounds = atoi(argv[3]);
    uint16_t words[WORDS], last = 0, three[3] = {1, 2, 3}, back[3] = {0};
    while (changes < rounds) {
        if (modbus_read_registers(plc, start, WORDS, words) != WORDS)
            return fail("read");
        for (int word = 1; word < WORDS; word++)
            if (words[word] != words[0]) {
                fprintf(stderr, "half a write: %d and %d\n", words[0], words[word]);
                return 1;
            }
        changes += words[0] != last;
        last = words[0];
        if (modbus_write_register(plc, 0, last) != 1)
            return fail("write");
    }
    if (modbus_write_and_read_registers(plc, 0, 3, three, 0, 3, back) != 3 || memcmp(three, back, sizeof back) != 0)
        return fail("write and read");
    if (modbus_write_registers(plc, start, 3, three) != -1)
        return fail("a write to the gate's words was done");
    printf("%d %s\n", changes, modbus_strerror(errno));
    modbus_close(plc);
    modbus_free(plc);
    return 0;
}
