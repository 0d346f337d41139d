"""What a gate and a PLC share: the register map, and one connection for each protocol."""
