package multiserver

// ParseGrammar reads one address by the grammar alone, and may lack the
// transform.
func ParseGrammar(s string) ([]Address, error) {
	var addrs []Address
	for _, text := range splitStrict(s, ';') {
		var a Address
		for _, part := range splitStrict(text, '~') {
			p, err := parsePart(part)
			if err != nil {
				return nil, err
			}
			a = append(a, p)
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// SplitLoose is splitLoose.
func SplitLoose(s string) []string { return splitLoose(s) }

// TextPart is textPart.
func TextPart(s string) Part { return textPart(s) }

// Plan returns the transports and addresses that Dial would try, in order.
func (s *Server) Plan(addrs []Address) (transports []string, planned []Address, err error) {
	attempts, errs := s.plan(addrs)
	for _, a := range attempts {
		transports = append(transports, a.transport.Name())
		planned = append(planned, a.addr)
	}
	if len(attempts) == 0 {
		return nil, nil, s.noRoute(addrs, errs)
	}
	return transports, planned, nil
}
