"""The service behind `tmr serve`, from the client inwards:

http         connections, with limits on slow clients
middleware   access control, rates, sizes, headers, errors
app          the routes of API and page
schemas      what the API takes and returns
form         the page's address as a query
page         the page's templates
engine       the model, the library and the drawings
batcher      a thread with a bounded queue
"""
