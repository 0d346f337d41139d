/* A PLC of libmodbus: plc PORT WORDS serves holding registers on 127.0.0.1 until it is killed. */
#include <errno.h>
#include <modbus/modbus.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    modbus_t *context = modbus_new_tcp("127.0.0.1", atoi(argv[1]));
    modbus_mapping_t *mapping = modbus_mapping_new(0, 0, atoi(argv[2]), 0);
    int listener = modbus_tcp_listen(context, 16);
    if (context == NULL || mapping == NULL || listener < 0) {
        fprintf(stderr, "%s\n", modbus_strerror(errno));
        return 1;
    }
    fd_set open_sockets;
    FD_ZERO(&open_sockets);
    FD_SET(listener, &open_sockets);
    for (int highest = listener;;) {
        fd_set ready = open_sockets;
        if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
            return 1;
        for (int descriptor = 0; descriptor <= highest; descriptor++) {
            if (!FD_ISSET(descriptor, &ready))
                continue;
            if (descriptor == listener) {
                int accepted = modbus_tcp_accept(context, &listener);
                if (accepted < 0)
                    continue;
                FD_SET(accepted, &open_sockets);
                if (accepted > highest)
                    highest = accepted;
                continue;
            }
            uint8_t request[MODBUS_TCP_MAX_ADU_LENGTH];
            modbus_set_socket(context, descriptor);
            int length = modbus_receive(context, request);
            if (length > 0) {
                modbus_reply(context, request, length, mapping);
            } else if (length < 0) {
                close(descriptor);
                FD_CLR(descriptor, &open_sockets);
            }
        }
    }
}
